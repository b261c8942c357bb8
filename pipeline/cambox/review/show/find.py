"""A sample of an output by its key: its row, and its picture, read again from the shard."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from cambox.errors import RequestError, some_of
from cambox.output.known_file import FOOTERS_AT_ONCE
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.review.pictures import ShownPicture, read_pictures


@dataclass(frozen=True)
class FoundSample:
    """A sample of an output.

    Attributes:
        recipe: of the output.
        shard: the URI of the shard that it is in.
        row: as its file has it, by the names of the columns (docs/format.md).
        image: (H, W, 3) uint8 RGB, upright; None where there is none.
        problem: why there is none, in one line.
    """

    recipe: PublishedRecipe
    shard: str
    row: Mapping[str, Any]
    image: np.ndarray | None
    problem: str | None

    @property
    def offset(self) -> float:
        """How many cells further right and down than it lies a cell of the maps looks."""
        return self.recipe.offset


def find_sample(output: str, key: str, shard: str | None = None) -> FoundSample:
    """Find a sample by its key, and read its picture again from its shard.

    Of the files only the column ``key`` is read, and that only where its statistics allow the key;
    then the rows around the sample, with their maps.

    >>> sample = find_sample("demo/boxes", "scene-000000")
    >>> sample.row["status"], sample.image.shape[2]
    ('ok', 3)

    Args:
        output: a recipe's folder, or an output that holds one or has a ``latest``; a path or URL.
        shard: the URI of the shard, or as much of its end as tells it from others; needed where
            several shards have the key.

    Raises:
        RequestError: there is no such output, shard or key; or several shards have the key.
    """
    recipe = open_recipe(output)
    files = [file for file in recipe.files if shard is None or _is(file, shard)]
    if not files:
        known = some_of([file.shard.uri for file in recipe.files])
        raise RequestError(f"--shard: {recipe.uri} has no shard {shard!r}; there are {known}")
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        places = list(pool.map(lambda file: file.places_of("key", key), files))
    found = [(file, at) for file, of_file in zip(files, places, strict=True) for at in of_file]
    if not found:
        raise RequestError(f"{recipe.uri} has no row with the key {key!r}{_an_example(files)}")
    if len(found) > 1:
        uris = some_of([file.shard.uri for file, _ in found], 20)
        raise RequestError(
            f"{key!r} is in {len(found)} shards: {uris}; choose one with --shard (Python: shard=)"
        )
    ((file, place),) = found
    (row,) = file.rows_at([place])
    picture = _picture(recipe, file, row)
    return FoundSample(recipe, file.shard.uri, row, picture.pixels, picture.problem)


def _is(file: PublishedFile, shard: str) -> bool:
    uri = file.shard.uri
    return uri == shard or uri.endswith(f"/{shard.lstrip('/')}")


def _an_example(files: list[PublishedFile]) -> str:
    full = next((file for file in files if file.rows), None)
    if full is None:
        return ""
    batch = next(full.batches(["key"]))
    return f"; it has no suffix, and is spelled as {batch['key'][0].as_py()!r}"


def _picture(recipe: PublishedRecipe, file: PublishedFile, row: Mapping[str, Any]) -> ShownPicture:
    if row["width"] is None:
        return ShownPicture(row["key"], None, row["error"] or "it could not be decoded")
    sizes = {row["key"]: (row["width"], row["height"])}
    max_pixels = recipe.settings["input"]["max_pixels"]
    (picture,) = read_pictures(file.shard, sizes, max_pixels, recipe.image_rule)
    return picture
