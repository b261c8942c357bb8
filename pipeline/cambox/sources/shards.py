"""What the user wrote as input, to the list of shards that are there now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

import braceexpand

from cambox.errors import RequestError
from cambox.sources.listing import Info, ask_each, describe, is_vague, matching
from cambox.sources.storage import (
    HTTP,
    canonical_uri,
    fingerprint,
    locate,
    protocol_of,
    storage_failures,
)

_MAX_EXPANSION = 1_000_000
# Compressions that are not read, and what unpacks them.
_UNPACKED_BY = {".zst": "zstd", ".tzst": "zstd", ".bz2": "bzip2", ".tbz2": "bzip2", ".xz": "xz"}
_RANGE = re.compile(r"\{(-?\d{1,20})\.\.(-?\d{1,20})")


@dataclass(frozen=True)
class Shard:
    """One tar archive of the input.

    Attributes:
        uri: absolute path, or full URL; its identity.
        size: bytes as stored (compressed, if it is); 0 where the server does not tell.
        fingerprint: differs when the content differs, see ``storage.fingerprint``.
    """

    uri: str
    size: int
    fingerprint: str


ShardState = Literal["same", "changed", "gone"]


def find_shards(
    patterns: Sequence[str], storage_options: Mapping[str, Any] | None = None
) -> list[Shard]:
    """All shards that the patterns name, in the patterns' order, then by name, each once.

    Args:
        patterns: paths or URLs, with ``{000..123}`` or ``{a,b}`` and with ``*``, ``?``, ``[...]``.

    Raises:
        RequestError: a pattern is not allowed, matches nothing, or names a missing file or one
            whose compression is not read.
        OSError: the storage failed.
    """
    if not patterns:
        raise RequestError("input.shards: the list is empty; name at least one shard")
    found: dict[str, Shard] = {}
    for pattern in patterns:
        try:
            with storage_failures(pattern):
                shards = sorted(_matches(pattern, storage_options), key=lambda shard: shard.uri)
        except RequestError as error:
            raise RequestError(f"input.shards: {error}") from error
        except PermissionError as error:
            raise RequestError(
                f"input.shards: {pattern!r} may not be read ({error}); check the credentials"
            ) from error
        for shard in shards:
            program = _UNPACKED_BY.get(PurePosixPath(shard.uri).suffix.lower())
            if program is not None:
                raise RequestError(
                    f"input.shards: {shard.uri} is compressed in a way that is not read; make it a "
                    f".tar, or with {program} -dc FILE | gzip a .tar.gz"
                )
            found.setdefault(shard.uri, shard)
    return list(found.values())


def _matches(pattern: str, storage_options: Mapping[str, Any] | None) -> Iterator[Shard]:
    protocol = protocol_of(pattern)
    # In an http URL a question mark starts the query.
    wildcard = re.compile(r"[*\[]" if protocol in HTTP else r"[*?\[]")
    plain = []
    for uri in _expand_braces(pattern):
        if wildcard.search(uri):
            yield from _glob(pattern, uri, wildcard, storage_options)
        else:
            plain.append(uri)
    if plain:
        yield from _files(pattern, plain, storage_options)


def _expand_braces(pattern: str) -> list[str]:
    # braceexpand makes a list of each range before it gives the first name.
    widths = [abs(int(last) - int(first)) for first, last in _RANGE.findall(pattern)]
    uris: list[str] = []
    try:
        if max(widths, default=0) < _MAX_EXPANSION:
            uris = list(islice(braceexpand.braceexpand(pattern, escape=False), _MAX_EXPANSION + 1))
    except ValueError as error:
        raise RequestError(f"{pattern!r}: {error}; balance the braces") from error
    if not 0 < len(uris) <= _MAX_EXPANSION:
        raise RequestError(f"{pattern!r} names more than {_MAX_EXPANSION} files; use a glob")
    return uris


def _glob(
    pattern: str,
    uri: str,
    wildcard: re.Pattern[str],
    storage_options: Mapping[str, Any] | None,
) -> Iterator[Shard]:
    filesystem, path = locate(uri, storage_options)
    filesystem.invalidate_cache()
    infos: dict[str, Info | None] = dict(matching(filesystem, path, wildcard))
    vague = [name for name, info in infos.items() if info and is_vague(info)]
    infos.update(zip(vague, ask_each([(filesystem, name) for name in vague]), strict=True))
    folder_uri = _folder(canonical_uri(uri), wildcard)
    folder_path = _folder(path, wildcard)
    matched = False
    for name, info in infos.items():
        if info is None:
            raise RequestError(f"{name!r} does not exist (a broken link?); remove or restore it")
        if info["type"] == "file":
            matched = True
            below = name.removeprefix(folder_path.rstrip("/")).lstrip("/")
            yield _shard(folder_uri + below, info)
    if not matched:
        part = "" if uri == pattern else f" ({uri!r})"
        raise RequestError(f"{pattern!r}{part} matches no file; correct the path or the pattern")


def _folder(uri: str, wildcard: re.Pattern[str]) -> str:
    """The part of a pattern before its first wildcard, up to and with the last slash."""
    before = wildcard.split(uri, maxsplit=1)[0]
    return before[: before.rfind("/") + 1]


def _files(
    pattern: str, uris: Sequence[str], storage_options: Mapping[str, Any] | None
) -> Iterator[Shard]:
    places = [locate(uri, storage_options) for uri in uris]
    lists = protocol_of(pattern) not in HTTP
    for uri, info in zip(uris, describe(places, lists), strict=True):
        if info is None:
            which = "" if len(uris) == 1 else f" names {uri!r}, which"
            raise RequestError(f"{pattern!r}{which} does not exist; correct it or restore the file")
        if info["type"] == "directory":
            raise RequestError(f"{uri!r} is a folder; use {uri.rstrip('/')}/*.tar")
        if info["type"] != "file":
            raise RequestError(f"{uri!r} is not a regular file; name a tar file")
        yield _shard(canonical_uri(uri), info)


def _shard(uri: str, info: Info) -> Shard:
    return Shard(uri, int(info.get("size") or 0), fingerprint(info))


def state_of(
    shard: Shard, storage_options: Mapping[str, Any] | None = None, moved: bool = False
) -> ShardState:
    """What became of one shard; see ``states_of``."""
    return states_of([shard], storage_options, moved)[0]


def states_of(
    shards: Sequence[Shard], storage_options: Mapping[str, Any] | None = None, moved: bool = False
) -> list[ShardState]:
    """Whether each shard is still the one that was annotated, from what its store says of it.

    Args:
        shards: as footers describe them.
        moved: they are copies, which have another time and ETag, and are known by their size.

    Raises:
        RequestError: a URI is of a kind that is not allowed, or its driver is not installed.
        OSError: the storage failed.
    """
    with storage_failures(shards[0].uri if len(shards) == 1 else "the shards"):
        places = [locate(shard.uri, storage_options) for shard in shards]
        infos = describe(places, lists=True)
        return [_state(shard, info, moved) for shard, info in zip(shards, infos, strict=True)]


def _state(shard: Shard, info: Info | None, moved: bool) -> ShardState:
    if info is None or info["type"] != "file":
        return "gone"
    # A fingerprint of the content cannot be compared with what the store says of it.
    if moved or shard.fingerprint.startswith("sha256="):
        size = int(info.get("size") or 0)
        same = size == shard.size or 0 in (size, shard.size)
    else:
        same = fingerprint(info) == shard.fingerprint
    return "same" if same else "changed"
