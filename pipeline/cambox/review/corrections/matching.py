"""Which row of an output each image of a review file is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from cambox.console import Advance
from cambox.export.writer import names_of
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe
from cambox.output.rows import spelled
from cambox.review.corrections.images import CorrectedImage
from cambox.sources.keys import one_spelling

COLUMNS = ("key", "status", "width", "height", "objects")
# What Label Studio puts before the names of uploaded files.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
# What an export puts behind a name that several samples would have.
_DIGEST = re.compile(r"^(.+)-([0-9a-f]{16})$")
_AS_FILE_NAME = r"[^\p{L}\p{N}_-]"
_MOST_SUFFIX = 10


@dataclass(frozen=True)
class MatchedImage:
    """An image of a review file, and its row.

    Attributes:
        row: with ``COLUMNS``; its boxes are those of the recipe.
        file: that the row is in.
    """

    image: CorrectedImage
    row: Mapping[str, Any]
    file: PublishedFile


def match_images(
    recipe: PublishedRecipe, images: Sequence[CorrectedImage], on_file: Advance | None = None
) -> tuple[list[MatchedImage], dict[str, str]]:
    """Find the rows of reviewed images; no file is read that none of them can be in.

    By shard and key where the review has kept them; else by the name, with or without extension,
    folders before it, and what exports and tools make of it.

    Returns:
        Those found, in the order of the output; and why others were not, by their names.
    """
    shards = {file.shard.uri for file in recipe.files}
    by_place: dict[tuple[str, str], list[int]] = defaultdict(list)
    by_name: dict[str, list[int]] = defaultdict(list)
    names: list[list[str]] = []
    for number, image in enumerate(images):
        given = image.key is not None and image.shard in shards
        if given:
            by_place[str(image.shard), one_spelling(str(image.key))].append(number)
        own = [] if given else _names(image.name if image.key is None else image.key)
        for name in own:
            by_name[name].append(number)
        names.append(own)

    # Of each image and name the rows that may be meant.
    found: dict[int, dict[str, list[MatchedImage]]] = defaultdict(lambda: defaultdict(list))
    placed: list[MatchedImage] = []
    keys_in: dict[str, set[str]] = defaultdict(set)
    for shard, key in by_place:
        keys_in[shard].add(key)
    for file in recipe.files:
        if by_name or file.shard.uri in keys_in:
            for row in _candidates(file, keys_in[file.shard.uri] | by_name.keys(), by_name):
                key = one_spelling(row["key"])
                meant = by_place.get((file.shard.uri, key), ())
                placed += [MatchedImage(images[number], row, file) for number in meant]
                for name in _names_of_row(row["key"], file.shard.uri):
                    for number in by_name.get(name, ()):
                        found[number][name].append(MatchedImage(images[number], row, file))
        if on_file is not None:
            on_file(len(recipe.files))

    wrong: dict[str, str] = {}
    for number, of_image in found.items():
        best = next(of_image[name] for name in names[number] if name in of_image)
        # One row may be found by its key and by what an export calls it.
        distinct = {(one.file.uri, one.row["key"]): one for one in best}
        if len(distinct) > 1:
            wrong[_called(images[number])] = f"{len(distinct)} samples may be meant"
        else:
            placed += distinct.values()
    matched: dict[tuple[str, str], MatchedImage] = {}
    for one in placed:
        if (place := (one.file.uri, one.row["key"])) in matched:
            wrong[_called(one.image)] = f"{matched[place].image.where} is of the same sample"
        else:
            matched[place] = one
    met = {_called(one.image) for one in matched.values()} | wrong.keys()
    missing = (image for image in images if _called(image) not in met)
    wrong |= {_called(image): "no sample of the output" for image in missing}
    return list(matched.values()), wrong


def _called(image: CorrectedImage) -> str:
    return f"{image.where} ({image.name})"


def _candidates(
    file: PublishedFile, keys: set[str], names: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """The rows of a file that may be meant: of these keys, or whose exports have these names."""
    plain = {match[1] if (match := _DIGEST.match(name)) else name for name in names}
    for batch in file.batches(COLUMNS):
        key = spelled(batch["key"])
        as_name = pc.replace_substring_regex(key, _AS_FILE_NAME, "_")
        wanted = pc.or_(
            pc.is_in(key, value_set=pa.array(list(keys), pa.string())),
            pc.is_in(as_name, value_set=pa.array(list(plain), pa.string())),
        )
        yield from batch.filter(wanted).to_pylist()


def _names_of_row(key: str, shard: str) -> set[str]:
    """What a row's image may be called: its key, and as exports call files."""
    return {one_spelling(key), *names_of(key, shard)}


def _names(address: str) -> list[str]:
    """The names that an image's address may stand for, the most exact one first.

    >>> _names("/data/local-files/?d=photos/dog%201.jpg")[2:4]
    ['photos/dog 1.jpg', 'photos/dog 1']
    """
    path = address.partition("?d=")[2] or address.partition("?")[0]
    names: list[str] = []
    for one in dict.fromkeys((address, path, unquote(path))):
        parts = one_spelling(one).split("/")
        for first in range(len(parts)):
            below = "/".join(parts[first:])
            names += _without_suffix(below)
        names += _without_suffix(_UPLOADED.sub("", parts[-1]))
    return list(dict.fromkeys(name for name in names if name))


def _without_suffix(name: str) -> list[str]:
    stem, dot, suffix = name.rpartition(".")
    return [name, stem] if dot and 0 < len(suffix) <= _MOST_SUFFIX and "/" not in suffix else [name]
