"""The recipe folders of an output, and what lies in them that readers should not meet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem

from cambox.output.publish import is_temporary
from cambox.sources.listing import list_folder
from cambox.verify.findings import Check, Problem

_RECIPE_FOLDER = re.compile(r"[0-9a-f]{16}")
_OURS = re.compile(r".+-[0-9a-f]{16}\.parquet(\..+)?")


@dataclass(frozen=True)
class Folder:
    """A recipe's folder.

    Attributes:
        visible: paths below it that readers read, sorted.
        hidden: the other paths.
    """

    uri: str
    path: str
    visible: tuple[str, ...]
    hidden: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def parquet(self) -> tuple[str, ...]:
        """The visible Parquet files."""
        return tuple(path for path in self.visible if path.endswith(".parquet"))

    def below(self, path: str) -> str:
        """A path as seen from the folder."""
        return path.removeprefix(self.path).lstrip("/")

    def uri_of(self, path: str) -> str:
        """The URI of a path below the folder."""
        return f"{self.uri}/{self.below(path)}"


def recipe_folders(filesystem: AbstractFileSystem, path: str, uri: str) -> list[Folder]:
    """The recipe folders of an output's root, or the one that the path is; none of others.

    Files of ours that lie in a root beside the recipes' folders count as a folder of their own.

    Raises:
        FileNotFoundError, NotADirectoryError: the path is not there, or is a file.
        OSError: a folder cannot be listed.
    """
    entries = list_folder(filesystem, path)
    if [entry["name"].rstrip("/") for entry in entries if entry["type"] != "directory"] == [path]:
        raise NotADirectoryError(path)
    below = sorted(
        name
        for name in (_last(entry) for entry in entries if entry["type"] == "directory")
        if _RECIPE_FOLDER.fullmatch(name)
    )
    is_recipe = _RECIPE_FOLDER.fullmatch(path.rsplit("/", 1)[-1]) is not None
    holds_ours = any(_OURS.fullmatch(_last(entry)) for entry in entries)
    if is_recipe and (holds_ours or not below):
        folders = [_folder(filesystem, path, uri)]
    else:
        folders = [_folder(filesystem, f"{path}/{name}", f"{uri}/{name}") for name in below]
        # Whatever else lies in a root may be large: it is looked into only where our files are.
        if holds_ours:
            folders.append(_folder(filesystem, path, uri, leave_out=below))
    return [folder for folder in folders if folder.parquet or any(leftovers(folder))]


def _last(entry: Mapping[str, Any]) -> str:
    name: str = entry["name"]
    return name.rstrip("/").rsplit("/", 1)[-1]


def _folder(
    filesystem: AbstractFileSystem, path: str, uri: str, leave_out: Sequence[str] = ()
) -> Folder:
    visible: list[str] = []
    hidden: list[str] = []
    for file in sorted(_files_below(filesystem, path)):
        parts = file.removeprefix(path).lstrip("/").split("/")
        if parts[0] not in leave_out:
            (hidden if any(part[0] in "._" for part in parts) else visible).append(file)
    return Folder(uri, path, tuple(visible), tuple(hidden))


def _files_below(filesystem: AbstractFileSystem, folder: str) -> Iterator[str]:
    # Not fsspec's find(): it passes over folders that may not be listed.
    for entry in list_folder(filesystem, folder):
        name = entry["name"].rstrip("/")
        if name == folder:
            # Object stores keep an empty object for a folder.
            continue
        if entry["type"] == "directory":
            yield from _files_below(filesystem, name)
        else:
            yield name


def leftovers(folder: Folder) -> Iterator[Problem]:
    """Temporary files of our own publishing."""
    for path in folder.hidden:
        if is_temporary(path.rsplit("/", 1)[-1]):
            yield Problem.of(
                folder.uri_of(path),
                Check.leftover,
                "a temporary file of a run that was ended; delete it once no run is writing here",
            )


def foreign(folder: Folder) -> Iterator[Problem]:
    """Files that a reader of the folder would take for Parquet."""
    for path in folder.visible:
        if not path.endswith(".parquet"):
            yield Problem.of(
                folder.uri_of(path),
                Check.foreign,
                "not a Parquet file, and readers of the folder trip over it; move it away",
            )
