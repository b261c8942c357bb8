"""What the user wrote as input, to the list of shards that are there now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

import braceexpand

from cambox.errors import RequestError
from cambox.sources.keys import readable
from cambox.sources.listing import Info, ask_each, describe, is_vague, matching
from cambox.sources.signed import unsigned
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
class ImageFile:
    """One picture of a chunk.

    Attributes:
        path: below the chunk's folder; or an absolute path, or a full URL.
        classes: given with it, as a ``.cls`` member has them; None where none are.
        address: as of a ``Shard``.
    """

    path: str
    classes: str | None = None
    address: str = field(default="", compare=False, repr=False)

    def uri_below(self, folder: str) -> str:
        """Where it is; the folder has a slash at its end."""
        return self.path if self.path.startswith("/") or "://" in self.path else folder + self.path


@dataclass(frozen=True)
class Shard:
    """One tar archive of the input, or a chunk of the pictures of a folder (``chunks``).

    Attributes:
        uri: absolute path, or full URL; its identity. A chunk's is a name in its folder.
        size: bytes as stored (compressed, if it is); 0 where the server does not tell.
        fingerprint: differs when the content differs, see ``storage.fingerprint``.
        files: of a chunk, the pictures in order; those with one key are neighbours.
        address: where it is opened, with the signature or password that its URI is without; of
            this run alone, and written nowhere. Empty: at its URI.
    """

    uri: str
    size: int
    fingerprint: str
    files: tuple[ImageFile, ...] = ()
    address: str = field(default="", compare=False, repr=False)

    @property
    def file_uris(self) -> list[str]:
        """Of a chunk's pictures."""
        folder = self.uri[: self.uri.rfind("/") + 1]
        return [file.uri_below(folder) for file in self.files]

    @property
    def stored(self) -> list[str]:
        """What lies in the storage: the tar, or the pictures."""
        if not self.files:
            return [self.address or self.uri]
        both = zip(self.files, self.file_uris, strict=True)
        return [file.address or uri for file, uri in both]

    def to_entry(self) -> dict[str, Any]:
        """The shard in plain types; a tar has no files."""
        entry: dict[str, Any] = {name: getattr(self, name) for name in _OF_A_TAR}
        if self.files:
            entry["files"] = [[file.path, file.classes] for file in self.files]
        return entry

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> Shard:
        """The shard that ``to_entry`` gave."""
        given = {**entry}
        files = tuple(ImageFile(*file) for file in given.pop("files", ()))
        return cls(**given, files=files)


# Of a photograph of 500 x 375 pixels, with its label; smaller ones make a run seem shorter.
_BYTES_OF_AN_IMAGE = 110_000


def about_images(shards: Sequence[Shard]) -> int | None:
    """How many images some shards hold, by their sizes; None where a server does not tell those."""
    if any(shard.size == 0 and not shard.files for shard in shards):
        return None
    return sum(len(shard.files) or shard.size // _BYTES_OF_AN_IMAGE for shard in shards)


OF_CONTENT = "sha256="
"""How a fingerprint of a shard's bytes begins, which no store tells."""
_OF_A_TAR = ("uri", "size", "fingerprint")


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
        with name_failures("input.shards", pattern):
            for uri, info in sorted(matches(pattern, storage_options), key=itemgetter(0)):
                if info["type"] == "file":
                    shard = _shard(uri, info)
                    found.setdefault(shard.uri, shard)
    return list(found.values())


@contextmanager
def name_failures(setting: str, pattern: str) -> Iterator[None]:
    """Put the setting before what is wrong with one of its patterns."""
    try:
        with storage_failures(pattern):
            yield
    except RequestError as error:
        raise RequestError(unsigned(f"{setting}: {error}")) from error
    except PermissionError as error:
        raise RequestError(
            unsigned(f"{setting}: {pattern!r} may not be read ({error}); check the credentials")
        ) from error


def wildcard_of(pattern: str) -> re.Pattern[str]:
    """What makes a part of a pattern a wildcard."""
    # In an http URL a question mark starts the query.
    return re.compile(r"[*\[]" if protocol_of(pattern) in HTTP else r"[*?\[]")


def matches(pattern: str, storage_options: Mapping[str, Any] | None) -> Iterator[tuple[str, Info]]:
    """The URI of all that a pattern names, and what the store says of it.

    Raises:
        RequestError: it is not allowed, matches no file, or names something else than a file.
        OSError: the storage failed.
    """
    wildcard = wildcard_of(pattern)
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
) -> Iterator[tuple[str, Info]]:
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
        matched = matched or info["type"] == "file"
        below = name.removeprefix(folder_path.rstrip("/")).lstrip("/")
        yield folder_uri + below, info
    if not matched:
        part = "" if uri == pattern else f" ({uri!r})"
        raise RequestError(f"{pattern!r}{part} matches no file; correct the path or the pattern")


def _folder(uri: str, wildcard: re.Pattern[str]) -> str:
    """The part of a pattern before its first wildcard, up to and with the last slash."""
    before = wildcard.split(uri, maxsplit=1)[0]
    return before[: before.rfind("/") + 1]


def _files(
    pattern: str, uris: Sequence[str], storage_options: Mapping[str, Any] | None
) -> Iterator[tuple[str, Info]]:
    places = [locate(uri, storage_options) for uri in uris]
    lists = protocol_of(pattern) not in HTTP
    for uri, info in zip(uris, describe(places, lists), strict=True):
        if info is None:
            which = "" if len(uris) == 1 else f" names {uri!r}, which"
            raise RequestError(f"{pattern!r}{which} does not exist; correct it or restore the file")
        if info["type"] == "directory":
            raise RequestError(
                f"{uri!r} is a folder; use {uri.rstrip('/')}/*.tar, or for a folder of pictures "
                f"input.images={uri}"
            )
        if info["type"] != "file":
            raise RequestError(f"{uri!r} is not a regular file; name a tar file")
        yield canonical_uri(uri), info


def _shard(uri: str, info: Info) -> Shard:
    program = _UNPACKED_BY.get(PurePosixPath(unsigned(uri)).suffix.lower())
    if program is not None:
        raise RequestError(
            f"{uri} is compressed in a way that is not read; make it a .tar, or with {program} -dc "
            "FILE | gzip a .tar.gz"
        )
    name = unsigned(uri)
    if readable(name) != name:
        raise RequestError(f"the name of {readable(name)} is not UTF-8, as rows have it; rename it")
    address = "" if name == uri else uri
    return Shard(name, int(info.get("size") or 0), fingerprint(info), address=address)
