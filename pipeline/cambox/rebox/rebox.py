"""A whole rebox: what is missing or changed, file by file, published as annotating would."""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from rich.console import Console
from rich.markup import escape

from cambox.boxing import Boxing
from cambox.config import OutputSettings
from cambox.console import Advance
from cambox.errors import RequestError
from cambox.output.footer import Footer
from cambox.output.ledger import FOOTERS_AT_ONCE, read_metadata
from cambox.output.leftovers import remove_leftovers
from cambox.output.publish import publish_bytes, recipe_uri
from cambox.output.reading import published_recipe, recipe_footer
from cambox.output.recipe import Recipe
from cambox.output.serialise import is_intact, to_parquet
from cambox.rebox.rows import rebox_rows
from cambox.rebox.source import SOURCE_KEY, SourceFile, is_done, reboxed_recipe, source_files
from cambox.sources.listing import list_folder
from cambox.sources.retry import from_storage
from cambox.sources.storage import canonical_uri, locate

# What one process would take for the files that are left. Below, others are not worth their start.
# Threads were not either when last measured, before boxes were compiled; rows are still Python.
PROCESSES_PAY_SECONDS = 10.0


@dataclass(frozen=True)
class ReboxSummary:
    """What a rebox left behind.

    Attributes:
        source: the URI of the source's folder.
        folder: the URI that readers point at.
        done_before: files that were there already, from the same bytes.
        without_source: files that are there, and whose source is not.
        failures: files that were given up, and why.
        unknown_scores: boxes with a class_score of 0 because the source does not tell it.
    """

    source: str
    folder: str
    recipe: Recipe
    published: int
    done_before: int
    without_source: int
    failures: Mapping[str, str]
    rows: int
    boxes: int
    no_box: Counter[str]
    unknown_scores: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The same for machines, in plain types."""
        return {
            "output": canonical_uri(self.folder),
            "recipe": self.recipe.digest,
            "complete": not self.failures,
            "files": {
                "published": self.published,
                "done": self.done_before,
                "without_source": self.without_source,
                "given_up": [
                    {"file": uri, "reason": reason} for uri, reason in self.failures.items()
                ],
            },
            "rows": self.rows,
            "boxes": self.boxes,
            "maps_without_box": dict(self.no_box),
            "boxes_with_unknown_class_score": self.unknown_scores,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class ReboxedFile:
    """What became of one file: what ``ReboxedRows`` counts, without the rows."""

    rows: int
    objects: int
    no_box: Counter[str]
    unknown_scores: int


class DamagedSourceError(ValueError):
    """A file of the source is not what its footer says."""


def rebox_output(
    output: str, to: str, overrides: Sequence[str], on_file: Advance | None = None
) -> ReboxSummary:
    """Make new boxes from an output's maps, for every file that has none yet.

    Args:
        output: URI of a recipe's folder, or of an output that holds one recipe; with maps.
        to: URI of the new output.
        overrides: ``boxes.key=value``, the value in YAML.
        on_file: called after each file.

    Raises:
        RequestError: the output or an override is wrong.
    """
    filesystem, folder = published_recipe(output)
    recipe = reboxed_recipe(recipe_footer(filesystem, folder), overrides)
    target = OutputSettings(uri=to)
    try:
        files = source_files(filesystem, folder)
        made = _made(target, recipe)
    except OSError as error:
        raise RequestError(f"{output} or {to} cannot be read: {error}; check access") from error
    boxing = Boxing.of_recipe(json.loads(recipe.settings))
    to_do = [file for file in files if not is_done(file, recipe, made.get(file.name))]
    remove_leftovers(target, recipe)
    start = time.monotonic()
    failures: dict[str, str] = {}
    published: list[ReboxedFile] = []
    rebox_file = functools.partial(_rebox, filesystem, recipe, boxing, target)
    for file, outcome in zip(to_do, _outcomes(to_do, rebox_file), strict=True):
        if isinstance(outcome, ReboxedFile):
            published.append(outcome)
        else:
            failures[file.uri] = outcome
        if on_file is not None:
            on_file(len(to_do))
    return ReboxSummary(
        source=folder.uri,
        folder=recipe_uri(target, recipe),
        recipe=recipe,
        published=len(published),
        done_before=len(files) - len(to_do),
        without_source=len(made.keys() - {file.name for file in files}),
        failures=failures,
        rows=sum(one.rows for one in published),
        boxes=sum(one.objects for one in published),
        no_box=sum((one.no_box for one in published), Counter()),
        unknown_scores=sum(one.unknown_scores for one in published),
        seconds=time.monotonic() - start,
    )


def _outcomes(
    files: Sequence[SourceFile], rebox_file: Callable[[SourceFile], ReboxedFile | str]
) -> Iterator[ReboxedFile | str]:
    """Of each file in turn, one after the other until it shows that processes pay."""
    start = time.monotonic()
    for done, file in enumerate(files, 1):
        yield rebox_file(file)
        left = files[done:]
        processes = min(os.cpu_count() or 1, len(left))
        seconds_left = (time.monotonic() - start) / done * len(left)
        if processes > 1 and seconds_left > PROCESSES_PAY_SECONDS:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context) as pool:
                yield from pool.map(rebox_file, left)
            return


def _rebox(
    filesystem: AbstractFileSystem,
    recipe: Recipe,
    boxing: Boxing,
    target: OutputSettings,
    file: SourceFile,
) -> ReboxedFile | str:
    """What became of a file, or why nothing did."""
    try:
        made = rebox_rows(_read(filesystem, file), boxing, recipe.class_names)
        metadata = Footer.of(recipe, file.footer.shard).to_metadata()
        metadata[SOURCE_KEY] = file.came_from.encode()
        uri = f"{recipe_uri(target, recipe)}/{file.name}"
        publish_bytes(uri, to_parquet(made.table.replace_schema_metadata(metadata)))
    except (OSError, pa.ArrowException, DamagedSourceError) as error:
        return " ".join(str(error).split())
    return ReboxedFile(made.table.num_rows, made.objects, made.no_box, made.unknown_scores)


def _read(filesystem: AbstractFileSystem, file: SourceFile) -> pa.Table:
    data = from_storage(file.uri, lambda: filesystem.cat_file(file.path))
    source = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    if not is_intact(data, source.metadata.metadata or {}):
        raise DamagedSourceError("the bytes before the footer are not those that were written")
    return source.read()


def _made(target: OutputSettings, recipe: Recipe) -> dict[str, dict[bytes, bytes] | None]:
    """The metadata of what is published already, by file name."""
    filesystem, path = locate(recipe_uri(target, recipe))
    filesystem.invalidate_cache()
    try:
        paths = [entry["name"] for entry in list_folder(filesystem, path)]
    except FileNotFoundError:
        return {}
    names = {one.rsplit("/", 1)[-1]: one for one in paths}
    visible = {
        name: one
        for name, one in names.items()
        if name.endswith(".parquet") and name[0] not in "._"
    }
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        every = pool.map(lambda one: read_metadata(filesystem, one), visible.values())
        return dict(zip(visible, every, strict=True))


def print_rebox(summary: ReboxSummary, console: Console) -> None:
    """Say where the output is and what was done."""
    rate = summary.rows / summary.seconds if summary.seconds else 0.0
    lines = [
        f"{summary.published} files reboxed, {summary.done_before} were done before, "
        f"{len(summary.failures)} given up"
    ]
    if summary.published:
        lines.append(f"{summary.rows} rows, {summary.boxes} boxes, {rate:.1f} images/s")
    if summary.no_box:
        reasons = ", ".join(f"{name} {count}" for name, count in sorted(summary.no_box.items()))
        lines.append(f"maps without a box: {reasons}")
    if summary.unknown_scores:
        lines.append(
            f"{summary.unknown_scores} boxes are of labels beyond the model's top-k that had no "
            "box before; the source does not tell their class_score, so it is 0"
        )
    if summary.without_source:
        lines.append(f"{summary.without_source} files of it have no source any more; they stay")
    lines += [f"given up: {uri}: {reason}" for uri, reason in summary.failures.items()]
    folder = canonical_uri(summary.folder)
    lines += [f"output: {folder}", f"compare: cambox diff {summary.source} {folder}"]
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
