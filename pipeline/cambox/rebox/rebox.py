"""A whole rebox: what is missing or changed, file by file, published as annotating would."""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from cambox.cams.boxes import InputSize
from cambox.config import OutputSettings
from cambox.config_cam import BoxSettings
from cambox.config_file import override_boxes
from cambox.console import Advance, counted, one_line, say
from cambox.errors import RequestError
from cambox.output.footer import SOURCE_KEY, Recipe, recipe_digest
from cambox.output.publish import (
    file_name,
    is_intact,
    publish,
    recipe_uri,
    remove_leftovers,
    require_publishable,
)
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe, files_in, open_recipe
from cambox.rebox.rows import Reboxed, rebox_rows
from cambox.sources.storage import canonical_uri
from cambox.threads import usable_cpus

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
        made: what is in the published files.
    """

    source: str
    folder: str
    recipe: Recipe
    published: int
    done_before: int
    without_source: int
    failures: Mapping[str, str]
    made: Reboxed
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
            "rows": self.made.rows,
            "boxes": self.made.boxes,
            "maps_without_box": dict(self.made.no_box),
            "boxes_with_unknown_class_score": self.made.unknown_scores,
            "seconds": self.seconds,
        }


def rebox_output(
    output: str, to: str, overrides: Sequence[str], on_file: Advance | None = None
) -> ReboxSummary:
    """Make new boxes from an output's maps, for every file that has none yet.

    Args:
        output: URI of a recipe's folder, or of an output (see ``recipe_folder``); with maps.
        to: URI of the new output.
        overrides: ``boxes.key=value``, the value in YAML.
        on_file: called after each file.

    Raises:
        RequestError: the output or an override is wrong.
    """
    source = open_recipe(output)
    recipe, boxes = _reboxed_recipe(source, overrides)
    target = OutputSettings(uri=to)
    try:
        made = files_in(recipe_uri(target, recipe))
    except OSError as error:
        raise RequestError(f"{to} cannot be read: {error}; check access") from error
    names = {file_name(file.shard.uri): file for file in source.files}
    to_do = [file for name, file in names.items() if not _is_done(file, recipe, made.get(name))]
    if to_do:
        require_publishable(target, recipe, "--to")
    remove_leftovers(target, recipe)
    start = time.monotonic()
    failures: dict[str, str] = {}
    reports: list[Reboxed] = []
    rebox_file = functools.partial(_rebox, recipe, boxes, source.input_size, target)
    for file, outcome in zip(to_do, _outcomes(to_do, rebox_file), strict=True):
        if isinstance(outcome, Reboxed):
            reports.append(outcome)
        else:
            failures[file.uri] = outcome
        if on_file is not None:
            on_file(len(to_do))
    return ReboxSummary(
        source=source.uri,
        folder=recipe_uri(target, recipe),
        recipe=recipe,
        published=len(reports),
        done_before=len(names) - len(to_do),
        without_source=len(made.keys() - names.keys()),
        failures=failures,
        made=sum(reports, Reboxed()),
        seconds=time.monotonic() - start,
    )


def _reboxed_recipe(
    source: PublishedRecipe, overrides: Sequence[str]
) -> tuple[Recipe, BoxSettings]:
    """The source's recipe with other boxes; ``rebox.maps_of`` names the recipe that made the maps.

    Raises:
        RequestError: the source has no maps or is of another cambox, or an override is wrong.
    """
    settings = source.settings
    try:
        if not settings["output"]["store_maps"]:
            raise RequestError(
                "OUTPUT holds no maps to make boxes from; annotate once more with "
                "--set output.store_maps=true"
            )
        boxes = override_boxes(BoxSettings.model_validate(settings["boxes"]), overrides)
    except (KeyError, TypeError, ValueError) as error:
        raise source.other_make() from error
    settings["boxes"] = boxes.model_dump()
    # Boxes follow from maps and settings, through however many steps these were arrived at.
    settings.setdefault("rebox", {"maps_of": source.footer.recipe_digest})
    text, classes = json.dumps(settings, sort_keys=True), source.footer.classes
    return Recipe(text, classes, recipe_digest(text, classes)), boxes


def _came_from(file: PublishedFile) -> str:
    """What a reboxed file's footer says of the bytes that its maps came from."""
    origin = {"recipe_digest": file.recipe_digest, "sha256": file.data_digest}
    return json.dumps(origin, sort_keys=True)


def _is_done(file: PublishedFile, recipe: Recipe, made: PublishedFile | None) -> bool:
    """Whether a file's successor is there, made from these bytes under this recipe."""
    return (
        made is not None and made.recipe_digest == recipe.digest and made.source == _came_from(file)
    )


def _outcomes(
    files: Sequence[PublishedFile], rebox_file: Callable[[PublishedFile], Reboxed | str]
) -> Iterator[Reboxed | str]:
    """Of each file in turn, one after the other until it shows that processes pay."""
    start = time.monotonic()
    for done, file in enumerate(files, 1):
        yield rebox_file(file)
        left = files[done:]
        processes = min(usable_cpus(), len(left))
        seconds_left = (time.monotonic() - start) / done * len(left)
        if processes > 1 and seconds_left > PROCESSES_PAY_SECONDS:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context) as pool:
                yield from pool.map(rebox_file, left)
            return


def _rebox(
    recipe: Recipe,
    boxes: BoxSettings,
    input_size: InputSize,
    target: OutputSettings,
    file: PublishedFile,
) -> Reboxed | str:
    """What became of a file, or why nothing did."""
    try:
        data = file.whole()
        source = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        if not is_intact(data, source.metadata.metadata or {}):
            return "the bytes before the footer are not those that were written"
        rows, report = rebox_rows(source.read(), boxes, input_size, recipe.class_names)
        publish(rows, file.shard, recipe, target, {SOURCE_KEY: _came_from(file).encode()})
    except (OSError, pa.ArrowException, RequestError) as error:
        return one_line(error)
    return report


def print_rebox(summary: ReboxSummary, console: Console) -> None:
    """Say where the output is and what was done."""
    made = summary.made
    rate = made.rows / summary.seconds if summary.seconds else 0.0
    lines = [
        f"{counted(summary.published, 'file')} reboxed, {summary.done_before} were done before, "
        f"{len(summary.failures)} given up"
    ]
    if summary.published:
        lines.append(
            f"{counted(made.rows, 'row')}, {counted(made.boxes, 'box')}, {rate:.1f} images/s"
        )
    if made.no_box:
        reasons = ", ".join(f"{name} {count}" for name, count in sorted(made.no_box.items()))
        lines.append(f"maps without a box: {reasons}")
    if made.unknown_scores:
        lines.append(
            f"{made.unknown_scores} boxes are of labels beyond the model's top-k that had no "
            "box before; the source does not tell their class_score, so it is 0"
        )
    if summary.without_source:
        lines.append(f"{summary.without_source} files of it have no source any more; they stay")
    lines += [f"given up: {uri}: {reason}" for uri, reason in summary.failures.items()]
    folder = canonical_uri(summary.folder)
    lines += [f"output: {folder}", f"compare: cambox diff {summary.source} {folder}"]
    say(console, *lines)
