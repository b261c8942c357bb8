"""A recipe made of published files: what is new or changed, file by file, published as annotating.

Each file is made from the files that one recipe, or several, have of the same shard.
"""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from cambox.config import OutputSettings
from cambox.console import Advance, counted, one_line, say
from cambox.errors import RequestError, ShardError
from cambox.output.commit import commit
from cambox.output.footer import SOURCE_KEY, Recipe
from cambox.output.known_file import files_in
from cambox.output.lease import held
from cambox.output.manifest import GivenUpShard
from cambox.output.publish import (
    file_name,
    is_intact,
    publish,
    recipe_uri,
    remove_leftovers,
    require_publishable,
)
from cambox.output.published_file import PublishedFile
from cambox.sources.retry import as_request
from cambox.sources.storage import canonical_uri
from cambox.threads import usable_cpus

# What one process would take for the files that are left. Below, others are not worth their start.
PROCESSES_PAY_SECONDS = 10.0


class Report(Protocol):
    """What is to be said of rows that were made; reports of files are added up."""

    def __add__(self, other: Any, /) -> Any:
        """Of both."""

    def to_json(self) -> Mapping[str, Any]:
        """For machines, in plain types."""

    def lines(self, seconds: float) -> list[str]:
        """For people; ``seconds`` is what making all of it took."""


Made = TypeVar("Made", bound=Report)
Parents = tuple[PublishedFile, ...]
"""The files that one file is made from, all of one shard: of the first the shard is taken."""
Make = Callable[[Parents], tuple[pa.Table, Made]]
"""Makes a file's rows, in the columns of ``rows.schema``, and says what is in them.

What it raises of OSError, ArrowException, ShardError and RequestError gives up the one file.
"""


@dataclass(frozen=True)
class Derived(Generic[Made]):
    """What a derived recipe's making left behind.

    Attributes:
        folder: the URI that readers point at.
        published: files that were made now.
        done_before: files that were there already, from the same bytes.
        without_source: files that are there, and whose source is not.
        failures: files that were given up, by the URI of their first parent, and why.
        made: what is in the published files.
    """

    folder: str
    recipe: Recipe
    published: int
    done_before: int
    without_source: int
    failures: Mapping[str, str]
    made: Made
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
            **self.made.to_json(),
            "seconds": self.seconds,
        }


def derive(
    to: str,
    recipe: Recipe,
    sources: Sequence[Parents],
    make: Make[Made],
    nothing: Made,
    *,
    in_processes: bool = False,
    on_file: Advance | None = None,
) -> Derived[Made]:
    """Make a recipe's files, but for those that are there and were made from the same bytes.

    Args:
        to: URI of the output.
        sources: of each file its parents.
        make: see ``Make``; it is called in this process, for one file after the other.
        nothing: the report of no rows.
        in_processes: ``make`` may be pickled, and is called in several processes where that pays.
        on_file: called after each file.

    Raises:
        RequestError: the output cannot be read or written.
    """
    target = OutputSettings(uri=to)
    try:
        there = files_in(recipe_uri(target, recipe))
    except OSError as error:
        raise RequestError(f"{to} cannot be read: {error}; check access") from error
    names = {file_name(parents[0].shard.uri): parents for parents in sources}
    to_do = [
        parents for name, parents in names.items() if not _is_done(parents, recipe, there.get(name))
    ]
    remove_leftovers(target, recipe)
    start = time.monotonic()
    failures: dict[str, str] = {}
    reports: list[Made] = []
    make_file = functools.partial(_publish, make, recipe, target)
    with ExitStack() as while_at_work:
        if to_do:
            require_publishable(target, recipe, "--to")
            while_at_work.enter_context(held(recipe_uri(target, recipe)))
        outcomes = _outcomes(to_do, make_file) if in_processes else map(make_file, to_do)
        for parents, outcome in zip(to_do, outcomes, strict=True):
            if isinstance(outcome, str):
                failures[parents[0].uri] = outcome
            else:
                reports.append(outcome)
            if on_file is not None:
                on_file(len(to_do))
        shards = [parents[0].shard for parents in names.values()]
        given_up = [_given_up(parents, failures) for parents in to_do if parents[0].uri in failures]
        with as_request(f"--to: {to} does not take the manifest of its files"):
            commit(target, recipe, shards, given_up, datetime.now(UTC))
    return Derived(
        folder=recipe_uri(target, recipe),
        recipe=recipe,
        published=len(reports),
        done_before=len(names) - len(to_do),
        without_source=len(there.keys() - names.keys()),
        failures=failures,
        made=functools.reduce(operator.add, reports, nothing),
        seconds=time.monotonic() - start,
    )


def whole_rows(file: PublishedFile, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a file, from bytes that are those that were written.

    Args:
        columns: None: all of them.

    Raises:
        RequestError: the file cannot be read, or is damaged.
        OSError, ArrowException: its bytes do not parse.
    """
    data = file.whole()
    parquet = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    if file.data_digest is None or not is_intact(data, parquet.metadata.metadata or {}):
        raise RequestError("the bytes before the footer are not those that were written")
    return parquet.read(columns)


def _came_from(parents: Parents) -> str:
    """What a made file's footer says of the bytes that it came from."""
    origins = [{"recipe_digest": one.recipe_digest, "sha256": one.data_digest} for one in parents]
    return json.dumps(origins[0] if len(origins) == 1 else origins, sort_keys=True)


def _is_done(parents: Parents, recipe: Recipe, made: PublishedFile | None) -> bool:
    """Whether the file is there, made from these bytes under this recipe."""
    return (
        made is not None
        and made.recipe_digest == recipe.digest
        and made.source == _came_from(parents)
    )


def _outcomes(
    sources: Sequence[Parents], make_file: Callable[[Parents], Made | str]
) -> Iterator[Made | str]:
    """Of each file in turn, one after the other until it shows that processes pay."""
    start = time.monotonic()
    for done, parents in enumerate(sources, 1):
        yield make_file(parents)
        left = sources[done:]
        processes = min(usable_cpus(), len(left))
        seconds_left = (time.monotonic() - start) / done * len(left)
        if processes > 1 and seconds_left > PROCESSES_PAY_SECONDS:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context) as pool:
                yield from pool.map(make_file, left)
            return


def _given_up(parents: Parents, failures: Mapping[str, str]) -> GivenUpShard:
    shard, reason = parents[0].shard, failures[parents[0].uri]
    return GivenUpShard(shard=shard.uri, fingerprint=shard.fingerprint, reason=reason, attempts=1)


def _publish(
    make: Make[Made], recipe: Recipe, target: OutputSettings, parents: Parents
) -> Made | str:
    """What became of a file, or why nothing did."""
    try:
        rows, report = make(parents)
        source = {SOURCE_KEY: _came_from(parents).encode()}
        publish(rows, parents[0].shard, recipe, target, more=source)
    except (OSError, pa.ArrowException, RequestError, ShardError) as error:
        return one_line(error)
    return report


def print_derived(derived: Derived[Any], done: str, compare_with: str, console: Console) -> None:
    """Say what was done, such as ``reboxed``, where the output is, and what to compare it with."""
    lines = [
        f"{counted(derived.published, 'file')} {done}, {derived.done_before} were done before, "
        f"{len(derived.failures)} given up"
    ]
    if derived.published:
        lines += derived.made.lines(derived.seconds)
    if derived.without_source:
        lines.append(f"{derived.without_source} files of it have no source any more; they stay")
    lines += [f"given up: {uri}: {reason}" for uri, reason in derived.failures.items()]
    folder = canonical_uri(derived.folder)
    lines += [f"output: {folder}", f"compare: cambox diff {compare_with} {folder}"]
    say(console, *lines)
