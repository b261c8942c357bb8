"""Pictures as they lie in folders, as shards: ``input.images``.

A chunk is a shard whose samples come from files in place of a tar. Which chunk a picture is in
depends on its name and on nothing else, so a picture that comes, goes or changes touches one chunk,
and no picture is ever in two. All that a run, its ledger and later readers need of a chunk is in
its ``Shard``: the files, with the classes given for each.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from cambox.errors import RequestError, some_of
from cambox.sources.formats import IMAGE_SUFFIXES
from cambox.sources.keys import file_key, file_suffix, readable
from cambox.sources.labels import class_folders
from cambox.sources.listing import Info, describe
from cambox.sources.retry import read_whole
from cambox.sources.shards import ImageFile, Shard, matches, name_failures, wildcard_of
from cambox.sources.signed import unsigned
from cambox.sources.states import files_fingerprint
from cambox.sources.storage import HTTP, canonical_uri, locate, protocol_of

_TABLES = (".csv", ".parquet")
_LINK = "is a link to a folder, which is not followed; name it in input.images as well"


@dataclass(frozen=True)
class _Found:
    """What one pattern names.

    Attributes:
        base: the folder, with a slash at its end, that paths are below.
        files: what the store says of each picture, by its path.
        classes: of the pictures for which some are given, as a ``.cls`` member has them.
        names: of the classes, where folders are.
        addresses: of the pictures that are opened elsewhere than at their path, see ``Shard``.
    """

    base: str
    files: Mapping[str, Info]
    classes: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)


def find_chunks(
    patterns: Sequence[str],
    count: int,
    storage_options: Mapping[str, Any] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> tuple[list[Shard], tuple[str, ...]]:
    """The pictures that the patterns name, each pattern's in ``count`` chunks at most.

    Args:
        patterns: folders, whose sub-folders are the classes as ``class_folders`` has it; globs; or
            CSV or Parquet tables with the columns ``image`` (a URI, or a path from the table's
            folder) and, where classes are given, ``class_index``.
        on_note: called with a line on what is passed over.

    Returns:
        The chunks, and the names of the classes where folders are the classes.

    Raises:
        RequestError: a pattern is not allowed, names no picture or a missing one, or a table is
            none; or the class folders of two patterns differ.
        OSError: the storage failed.
    """
    chunks: dict[str, Shard] = {}
    names: tuple[str, ...] = ()
    for pattern in patterns:
        with name_failures("input.images", pattern):
            found = _found(pattern, storage_options, on_note)
            if names and found.names and names != found.names:
                raise RequestError(
                    f"{pattern!r} has other class folders than those before it, so that a label "
                    "would mean another class in each; annotate them apart"
                )
            names = names or found.names
            for chunk in _chunks(pattern, found, count):
                chunks.setdefault(chunk.uri, chunk)
    return list(chunks.values()), names


def _chunks(pattern: str, found: _Found, count: int) -> Iterator[Shard]:
    members: dict[int, list[str]] = defaultdict(list)
    for path in sorted(found.files, key=lambda path: (file_key(path), path)):
        digest = hashlib.sha256(file_key(path).encode()).digest()
        members[int.from_bytes(digest[:8]) % count].append(path)
    # Several globs or tables may share a folder.
    uri = unsigned(canonical_uri(pattern))
    is_folder = f"{uri.rstrip('/')}/" == found.base
    which = "" if is_folder else f"-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
    for number, paths in sorted(members.items()):
        for one, other in pairwise(paths):
            if (file_key(one), file_suffix(one)) == (file_key(other), file_suffix(other)):
                raise RequestError(f"{one!r} and {other!r} would be one sample; rename one")
        infos = [found.files[path] for path in paths]
        sizes = [info.get("size") for info in infos]
        yield Shard(
            uri=f"{found.base}chunk-{number:05d}-of-{count:05d}{which}",
            size=0 if None in sizes else sum(map(int, filter(None, sizes))),
            fingerprint=files_fingerprint(infos),
            files=tuple(
                ImageFile(path, found.classes.get(path), found.addresses.get(path, ""))
                for path in paths
            ),
        )


def _found(
    pattern: str, storage_options: Mapping[str, Any] | None, on_note: Callable[[str], None]
) -> _Found:
    uri = canonical_uri(pattern)
    if wildcard_of(pattern).search(pattern):
        return _listed(pattern, pattern, storage_options, on_note)
    if PurePosixPath(unsigned(uri)).suffix.lower() in _TABLES:
        return _from_table(pattern, storage_options)
    (info,) = describe([locate(uri, storage_options)], lists=False)
    if info is not None and info["type"] == "directory":
        return _listed(pattern, f"{pattern.rstrip('/')}/**", storage_options, on_note)
    return _listed(pattern, pattern, storage_options, on_note)


def _listed(
    pattern: str,
    glob: str,
    storage_options: Mapping[str, Any] | None,
    on_note: Callable[[str], None],
) -> _Found:
    """The pictures that a glob names; what else it names is passed over, and said.

    Args:
        pattern: as the user wrote it.
    """
    before = wildcard_of(glob).split(canonical_uri(glob), maxsplit=1)[0]
    base = before[: before.rfind("/") + 1]
    files: dict[str, Info] = {}
    others: dict[str, list[str]] = defaultdict(list)
    for uri, info in matches(glob, storage_options):
        path = uri.removeprefix(base)
        if any(part.startswith(".") for part in path.split("/")):
            others["hidden"].append(readable(path))
        elif readable(path) != path:
            others["with names that are not UTF-8"].append(readable(path))
        elif info["type"] == "directory":
            if info.get("islink"):
                raise RequestError(f"{uri!r} {_LINK}")
        elif (kind := file_suffix(path)) not in IMAGE_SUFFIXES:
            others[f".{kind}" if kind else "without extension"].append(path)
        else:
            files[path] = info
    passed_over = [
        f"{len(names)} {kind} ({some_of(names)})" for kind, names in sorted(others.items())
    ]
    if not files:
        raise RequestError(
            f"{pattern!r} names no images ({', '.join(IMAGE_SUFFIXES)}), but "
            f"{some_of(passed_over) or 'nothing'}"
        )
    if passed_over:
        on_note(f"input.images: {pattern!r}: passed over {some_of(passed_over)}")
    classes, names = class_folders(list(files))
    without = [path for path in files if path not in classes]
    if without and (names or any("/" in path for path in without)):
        on_note(
            f"input.images: {pattern!r}: {len(without)} images are not directly in a class folder "
            f"and have no label: {some_of(without)}"
        )
    of_files = {path: str(index) for path, (index,) in classes.items()}
    return _Found(base, files, of_files, tuple(names))


def _from_table(pattern: str, storage_options: Mapping[str, Any] | None) -> _Found:
    """The pictures that a table names, in any storage; every one has to be there."""
    uri = unsigned(canonical_uri(pattern))
    base = uri[: uri.rfind("/") + 1]
    addresses: dict[str, str] = {}
    classes: dict[str, dict[int, None]] = {}
    for line, (name, indices) in enumerate(_rows(canonical_uri(pattern), storage_options), 1):
        if name.startswith("/") or "://" in name:
            address = canonical_uri(name)
            if (path := unsigned(address)) != address:
                addresses[path] = address
        else:
            path = str(PurePosixPath(name))
        of_image = classes.setdefault(path, {})
        for index in indices:
            if not 0 <= index < 2**31:
                raise RequestError(
                    f"{pattern!r}, row {line}: {index} is no class; use 0, 1, 2, ..."
                )
            of_image[index] = None
    strange = [path for path in classes if file_suffix(path) not in IMAGE_SUFFIXES]
    if strange:
        raise RequestError(
            f"{pattern!r} names {len(strange)} files that are no images "
            f"({', '.join(IMAGE_SUFFIXES)}): {some_of(strange)}"
        )
    uris = [addresses.get(path) or ImageFile(path).uri_below(base) for path in classes]
    places = [locate(uri, storage_options) for uri in uris]
    lists = not any(protocol_of(uri) in HTTP for uri in uris)
    infos = dict(zip(classes, describe(places, lists), strict=True))
    files = {path: info for path, info in infos.items() if info and info["type"] == "file"}
    if missing := [path for path in classes if path not in files]:
        remedy = "correct or remove these rows"
        if not all(map(str.isascii, missing)):
            remedy += ", or spell them as the files are, in Unicode's NFC or NFD"
        raise RequestError(
            f"{pattern!r} names {len(missing)} images that are not there: {some_of(missing)}; "
            f"{remedy}"
        )
    if not files:
        raise RequestError(f"{pattern!r} names no images; it needs rows")
    given = {path: " ".join(map(str, found)) for path, found in classes.items() if found}
    return _Found(base, files, given, addresses=addresses)


def _rows(
    uri: str, storage_options: Mapping[str, Any] | None
) -> Iterator[tuple[str, Sequence[int]]]:
    """The image of each row of a table, and its classes: none, one, or a list of them."""
    data = read_whole(uri, storage_options)
    try:
        if unsigned(uri).lower().endswith(".csv"):
            table = pyarrow.csv.read_csv(pa.BufferReader(data))
        else:
            table = pyarrow.parquet.read_table(pa.BufferReader(data))
        if "image" not in table.column_names:
            raise RequestError(f"{uri!r} has no column 'image'; it needs image,class_index")
        images = table["image"].cast(pa.string()).to_pylist()
        indices: Sequence[Any] = [None] * len(images)
        if "class_index" in table.column_names:
            column = table["class_index"]
            listed = pa.types.is_list(column.type)
            indices = column.cast(pa.list_(pa.int64()) if listed else pa.int64()).to_pylist()
    except pa.ArrowException as error:
        text = " ".join(str(error).split())
        raise RequestError(f"{uri!r} is no table of images and classes ({text})") from error
    for image, index in zip(images, indices, strict=True):
        if not image:
            raise RequestError(f"{uri!r} has a row without an image; remove it")
        yield image, index if isinstance(index, list) else [] if index is None else [index]
