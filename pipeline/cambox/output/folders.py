"""The recipes' folders of an output, and the files in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cambox.config import OutputSettings
from cambox.errors import RequestError, some_of
from cambox.output.latest import LINK, Latest, read_latest
from cambox.output.manifest import newest_manifest
from cambox.output.publish import is_temporary
from cambox.sources.listing import list_folder
from cambox.sources.storage import canonical_uri, locate, storage_failures

RECIPE_FOLDER = re.compile(r"[0-9a-f]{16}")
_OURS = re.compile(r".+-[0-9a-f]{16}\.parquet(\..+)?")


@dataclass(frozen=True)
class Folder:
    """A recipe's folder.

    Attributes:
        uri: of the folder itself, also where a link leads to it.
        visible: names below it that readers read, sorted.
        hidden: the other names below it, such as temporary files.
        storage_options: of the output, passed to fsspec.
        chosen_from: how many recipes its output holds, of which ``latest`` says that it is the one
            to read; 1: no choice was to be made.
        manifest: the digest of the manifest that says what is to be read; None: what is visible.
    """

    uri: str
    visible: tuple[str, ...]
    hidden: tuple[str, ...]
    storage_options: Mapping[str, Any] | None = None
    chosen_from: int = 1
    manifest: str | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.uri.rsplit("/", 1)[-1]

    @property
    def parquet(self) -> tuple[str, ...]:
        """The visible Parquet files, by name."""
        return tuple(name for name in self.visible if name.endswith(".parquet"))

    @property
    def temporary(self) -> tuple[str, ...]:
        """The hidden files that publishing writes under before they are whole."""
        return tuple(name for name in self.hidden if is_temporary(name.rsplit("/", 1)[-1]))

    def uri_of(self, name: str) -> str:
        """The URI of a file below the folder."""
        return f"{self.uri}/{name}"


def recipe_folders(uri: str, storage_options: Mapping[str, Any] | None = None) -> list[Folder]:
    """The recipes' folders of an output, or the one that the URI names.

    Files of ours that lie in a root beside the recipes' folders count as a folder of their own.

    Raises:
        RequestError: there is no such output, or it cannot be listed.
    """
    filesystem, path = locate(uri, storage_options)
    filesystem.invalidate_cache()
    root = canonical_uri(uri).rstrip("/")
    if isinstance(filesystem, LocalFileSystem):
        # `latest` is a link; the folder's own name says which recipe should be in it.
        root = path = os.path.realpath(path)
    try:
        with storage_failures(uri):
            folders = list(_folders(filesystem, path.rstrip("/"), root, storage_options))
    except FileNotFoundError as error:
        raise RequestError(f"{uri} does not exist; name an output, or a recipe's folder") from error
    except NotADirectoryError as error:
        raise RequestError(f"{uri} is a file; name the folder that holds it") from error
    except OSError as error:
        raise RequestError(f"{uri} cannot be listed: {error}") from error
    found = [folder for folder in folders if folder.parquet or folder.temporary]
    if not found:
        raise RequestError(f"{uri} holds nothing of cambox; name an output, or a recipe's folder")
    return found


def recipe_folder(uri: str, storage_options: Mapping[str, Any] | None = None) -> Folder:
    """The one recipe's folder that a URI names, or that its output holds.

    Of several it is the one that ``latest`` points to.

    Raises:
        RequestError: as ``recipe_folders``; or the output holds no rows, or several recipes, none
            of which is latest.
    """
    full = [folder for folder in recipe_folders(uri, storage_options) if folder.parquet]
    if not full:
        raise RequestError(f"{uri} holds no published file; run cambox annotate first")
    try:
        latest = _latest(uri, full[0], storage_options)
        for folder in full:
            if latest is not None and folder.name == latest.recipe:
                manifest = latest.manifest or _newest(folder)
                return replace(folder, chosen_from=len(full), manifest=manifest)
        if len(full) == 1:
            return replace(full[0], manifest=_newest(full[0]))
    except OSError as error:
        raise RequestError(f"{uri} cannot be read: {error}; check access to it") from error
    names = some_of([folder.uri for folder in full])
    raise RequestError(
        f"{uri} holds {len(full)} recipes, and none is latest; name one of them: {names} (cambox "
        "list says how they differ)"
    )


def _latest(uri: str, folder: Folder, storage_options: Mapping[str, Any] | None) -> Latest | None:
    """What ``latest`` says, where the URI is of an output or of the link in it, not of a recipe."""
    root = uri.rstrip("/")
    if root.rpartition("/")[2] == LINK:
        root = folder.uri.rpartition("/")[0]
    elif root.rpartition("/")[2] == folder.name:
        return None
    return read_latest(OutputSettings(uri=root, storage_options=dict(storage_options or {})))


def _newest(folder: Folder) -> str | None:
    if RECIPE_FOLDER.fullmatch(folder.name) is None:
        return None
    return newest_manifest(folder.uri, folder.storage_options)[1]


def _folders(
    filesystem: AbstractFileSystem, path: str, uri: str, options: Mapping[str, Any] | None
) -> Iterator[Folder]:
    entries = list_folder(filesystem, path)
    if [entry["name"].rstrip("/") for entry in entries if entry["type"] != "directory"] == [path]:
        raise NotADirectoryError(path)
    below = sorted(
        name
        for name in (_last(entry) for entry in entries if entry["type"] == "directory")
        if RECIPE_FOLDER.fullmatch(name)
    )
    is_recipe = RECIPE_FOLDER.fullmatch(path.rsplit("/", 1)[-1]) is not None
    holds_ours = any(_OURS.fullmatch(_last(entry)) for entry in entries)
    if is_recipe and (holds_ours or not below):
        yield _folder(filesystem, path, uri, options)
        return
    for name in below:
        yield _folder(filesystem, f"{path}/{name}", f"{uri}/{name}", options)
    # Whatever else lies in a root may be large: it is looked into only where our files are.
    if holds_ours:
        yield _folder(filesystem, path, uri, options, leave_out=below)


def _last(entry: Mapping[str, Any]) -> str:
    name: str = entry["name"]
    return name.rstrip("/").rsplit("/", 1)[-1]


def _folder(
    filesystem: AbstractFileSystem,
    path: str,
    uri: str,
    options: Mapping[str, Any] | None,
    leave_out: Sequence[str] = (),
) -> Folder:
    visible: list[str] = []
    hidden: list[str] = []
    for file in sorted(_files_below(filesystem, path)):
        name = file.removeprefix(path).lstrip("/")
        parts = name.split("/")
        if parts[0] not in leave_out:
            (hidden if any(part[0] in "._" for part in parts) else visible).append(name)
    return Folder(uri, tuple(visible), tuple(hidden), options)


def _files_below(filesystem: AbstractFileSystem, folder: str) -> Iterator[str]:
    # Not fsspec's find(): it passes over folders that may not be listed.
    for entry in list_folder(filesystem, folder):
        name = entry["name"].rstrip("/")
        if name == folder:
            # Object stores keep an empty object for a folder.
            continue
        # A folder that has a file's name of ours counts as one, which is then found to be none.
        has_our_name = _OURS.fullmatch(_last(entry)) and name.endswith(".parquet")
        if entry["type"] == "directory" and not has_our_name:
            yield from _files_below(filesystem, name)
        else:
            yield name
