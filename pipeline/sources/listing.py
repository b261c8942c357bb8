"""What a store says of many files, in few questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from fsspec import AbstractFileSystem

# Above so many files of one folder, one listing of it is quicker than a question for each file.
_LISTING_PAYS = 32
_THREADS = 32

# fsspec's description of a file: at least ``name``, ``size`` in bytes or None, and ``type``.
Info = Mapping[str, Any]
Place = tuple[AbstractFileSystem, str]


def describe(places: Sequence[Place], lists: bool) -> Iterator[Info | None]:
    """What the store says of each place, in order; None for one that is not there."""
    listed: dict[Place, Info] = {}
    folders = Counter((filesystem, path.rpartition("/")[0]) for filesystem, path in places)
    for (filesystem, folder), count in folders.items():
        if lists and count >= _LISTING_PAYS:
            # A folder that may not be listed can still hold files that may be read, and one that
            # is not there holds none: either way its files are asked for one by one below.
            with suppress(PermissionError, FileNotFoundError):
                for info in filesystem.ls(folder, detail=True):
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
        info: Info = filesystem.info(path)
    except FileNotFoundError as error:
        # The http driver says so of every failure; a server that is down has not lost the file.
        cause = error.__cause__
        if "http" in filesystem.protocol and cause and getattr(cause, "status", 0) != 404:
            raise cause from error
        return None
    return info
