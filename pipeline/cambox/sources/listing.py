"""What a store says of many files, in few questions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate

from cambox.sources.retry import from_storage

# Above so many files of one folder, one listing of it is quicker than a question for each file.
_LISTING_PAYS = 32
_THREADS = 32

# fsspec's description of a file: at least ``name``, ``size`` in bytes or None, and ``type``.
Info = Mapping[str, Any]
Place = tuple[AbstractFileSystem, str]


def describe(places: Sequence[Place], lists: bool) -> Iterator[Info | None]:
    """What the store says now of each place, in order; None for one that is not there."""
    for filesystem in {filesystem for filesystem, _ in places}:
        filesystem.invalidate_cache()
    listed: dict[Place, Info] = {}
    folders = Counter((filesystem, path.rpartition("/")[0]) for filesystem, path in places)
    for (filesystem, folder), asked_for in folders.items():
        if lists and asked_for >= _LISTING_PAYS:
            # A folder that may not be listed can still hold files that may be read, and one that
            # is not there holds none: either way its files are asked for one by one below.
            with suppress(PermissionError, FileNotFoundError):
                for info in list_folder(filesystem, folder):
                    listed[filesystem, info["name"]] = info
    unclear = [place for place in places if place not in listed or is_vague(listed[place])]
    asked = dict(zip(unclear, ask_each(unclear), strict=True))
    for place in places:
        yield asked[place] if place in asked else listed[place]


def is_vague(info: Info) -> bool:
    """A listing shows a link's own time, not its target's, and an HTML index shows no size."""
    return bool(info.get("islink")) or (info["type"] == "file" and info.get("size") is None)


def ask_each(places: Sequence[Place]) -> list[Info | None]:
    """What the store says of each place, one question for each, many at a time."""
    if len(places) < 2:
        return [_ask(place) for place in places]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_ask, places))


def _ask(place: Place) -> Info | None:
    filesystem, path = place
    try:
        info: Info = from_storage(filesystem.unstrip_protocol(path), lambda: filesystem.info(path))
    except FileNotFoundError:
        return None
    return info


def list_folder(filesystem: AbstractFileSystem, folder: str) -> list[Info]:
    """What the store says of everything directly in a folder.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: it cannot be listed.
    """
    uri = filesystem.unstrip_protocol(folder)
    infos: list[Info] = from_storage(uri, lambda: filesystem.ls(folder, detail=True))
    return infos


def matching(
    filesystem: AbstractFileSystem, pattern: str, wildcard: re.Pattern[str]
) -> dict[str, Info]:
    """What a pattern with wildcards matches, by path, in the order of the paths.

    Not fsspec's ``glob``: where a folder's listing fails, that goes on without the folder, and its
    shards would be missing from the run without a word.

    Args:
        pattern: a path on the file system.
        wildcard: what makes a part of it a wildcard.

    Raises:
        OSError: a folder that may hold matches cannot be listed.
    """
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if wildcard.search(part))
    whole = re.compile(glob_translate(pattern)).match
    found: dict[str, Info] = {}
    folders = ["/".join(parts[:first])]
    with ThreadPoolExecutor(_THREADS) as pool:
        for depth in count(first):
            below = {
                info["name"].rstrip("/"): info
                for infos in pool.map(lambda folder: _entries(filesystem, folder), folders)
                for info in infos
            }
            found |= {name: info for name, info in below.items() if whole(name)}
            # Below `**` every folder may hold matches.
            any_depth = "**" in parts[: depth + 1]
            if not any_depth and depth + 1 == len(parts):
                break
            start = ".*" if any_depth else glob_translate("/".join(parts[: depth + 1]))
            enters = re.compile(start, re.DOTALL).match
            folders = [
                name for name, info in below.items() if info["type"] == "directory" and enters(name)
            ]
            if not folders:
                break
    return dict(sorted(found.items()))


def _entries(filesystem: AbstractFileSystem, folder: str) -> list[Info]:
    """Of what lies below a folder, what its listing shows."""
    start = folder.rstrip("/") + "/"
    try:
        # With the slash: without it a web server answers for something else.
        infos = list_folder(filesystem, start)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # Object stores may show the folder itself, and web pages link anywhere.
    return [
        info for info in infos if len(info["name"]) > len(start) and info["name"].startswith(start)
    ]
