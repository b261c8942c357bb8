"""The output is its own ledger: what is done is read from the footers of what is published."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from packaging.version import Version

from cambox.config import OutputSettings
from cambox.output.footer import Footer
from cambox.output.publish import file_name, recipe_uri
from cambox.output.recipe import Recipe
from cambox.sources.retry import from_storage
from cambox.sources.shards import Shard
from cambox.sources.storage import locate

FOOTERS_AT_ONCE = 16
# More than most footers have, so that most take one read.
TAIL_BYTES = 1 << 16

State = Literal["new", "changed", "outdated", "done"]


@dataclass(frozen=True)
class Plan:
    """What a run has to do, shard by shard, in the order of the input.

    Attributes:
        new: nothing is published for them.
        changed: published from another state of the shard, or the file cannot be read.
        outdated: published by a version of cambox whose work is to be done again.
        done: published from this shard and this recipe.
        orphaned: URIs of shards that are published but no longer in the input; their files stay.
        versions: libraries that published files were made with, and how many files.
    """

    new: tuple[Shard, ...]
    changed: tuple[Shard, ...]
    outdated: tuple[Shard, ...]
    done: tuple[Shard, ...]
    orphaned: tuple[str, ...]
    versions: Mapping[tuple[str, str], int]

    @property
    def to_do(self) -> tuple[Shard, ...]:
        """What is not done, the largest first, so that no long one ends the run alone."""
        work = self.new + self.changed + self.outdated
        return tuple(sorted(work, key=lambda shard: -shard.size))

    @property
    def mixed_versions(self) -> tuple[str, ...]:
        """Of each library that files were made with several versions of: name, version, files."""
        libraries = Counter(library for library, _ in self.versions)
        return tuple(
            f"{library} {version} ({files} files)"
            for (library, version), files in sorted(self.versions.items())
            if libraries[library] > 1
        )

    def __str__(self) -> str:
        shards = len(self.to_do) + len(self.done)
        outdated = f"{len(self.outdated)} outdated, " if self.outdated else ""
        orphaned = f", {len(self.orphaned)} orphaned" if self.orphaned else ""
        return (
            f"{shards} shards: {len(self.new)} new, {len(self.changed)} changed, "
            f"{outdated}{len(self.done)} done{orphaned}"
        )


def plan(
    shards: Sequence[Shard],
    recipe: Recipe,
    output: OutputSettings,
    redo_older_than: Version | None = None,
) -> Plan:
    """Compare the input with what is published under the recipe.

    Args:
        redo_older_than: what an older version of cambox made is outdated; None: a version alone
            redoes nothing.

    Raises:
        OSError: the output cannot be listed, or a footer cannot be read.
    """
    footers = _published(recipe_uri(output, recipe), output)
    groups: dict[State, list[Shard]] = {"new": [], "changed": [], "outdated": [], "done": []}
    for shard in shards:
        name = file_name(shard.uri)
        if name not in footers:
            groups["new"].append(shard)
        else:
            groups[_state(shard, footers[name], redo_older_than)].append(shard)
    expected = {file_name(shard.uri) for shard in shards}
    return Plan(
        new=tuple(groups["new"]),
        changed=tuple(groups["changed"]),
        outdated=tuple(groups["outdated"]),
        done=tuple(groups["done"]),
        orphaned=tuple(
            footer.shard.uri
            for name, footer in sorted(footers.items())
            if footer is not None and name not in expected
        ),
        versions=Counter(
            pair for footer in footers.values() if footer for pair in footer.versions.items()
        ),
    )


def _state(shard: Shard, footer: Footer | None, redo_older_than: Version | None) -> State:
    if footer is None or footer.shard != shard:
        return "changed"
    if redo_older_than is not None and Version(footer.versions["cambox"]) < redo_older_than:
        return "outdated"
    return "done"


def _published(folder_uri: str, output: OutputSettings) -> dict[str, Footer | None]:
    """The footers of a folder's visible files, by name; None where a file is not whole or ours."""
    filesystem, folder = locate(folder_uri, output.storage_options)
    # Another process may have published since this one looked.
    filesystem.invalidate_cache()
    try:
        paths = from_storage(folder_uri, lambda: filesystem.ls(folder, detail=False))
    except FileNotFoundError:
        return {}
    visible = [path for path in paths if path.endswith(".parquet") and _name(path)[0] not in "._"]
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        footers = pool.map(lambda path: _footer(filesystem, path), visible)
        return dict(zip(map(_name, visible), footers, strict=True))


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _footer(filesystem: AbstractFileSystem, path: str) -> Footer | None:
    try:
        return Footer.from_metadata(read_metadata(filesystem, path) or {})
    except KeyError:
        return None


def read_metadata(filesystem: AbstractFileSystem, path: str) -> dict[bytes, bytes] | None:
    """The key-value metadata of a Parquet file, from its end alone; None where it is not whole.

    Raises:
        OSError: the storage failed, or has no such file.
    """
    uri = filesystem.unstrip_protocol(path)
    # Read first and parsed then: Arrow's word for bytes that do not parse is an OSError as well.
    tail = from_storage(uri, lambda: read_tail(filesystem, path))
    try:
        return pq.read_metadata(pa.BufferReader(tail)).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None


def read_tail(filesystem: AbstractFileSystem, path: str) -> bytes:
    """The end of a Parquet file, with the whole footer."""
    with filesystem.open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail: bytes = file.read()
        # The file ends with the footer, its length, and a magic number.
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < length <= size:
            file.seek(size - length)
            tail = file.read()
    return tail
