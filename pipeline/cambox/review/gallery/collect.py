"""From an output to what the gallery shows: counts over all rows, and a sample to look at."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.console import Advance
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.output.rows import OBJECT_TYPE, StoredMap, as_numpy, boxes_from_arrow
from cambox.review.draw import Picture, within
from cambox.review.gallery.beside import Beside, OtherBoxes
from cambox.review.gallery.distributions import COLUMNS, Distributions
from cambox.review.gallery.suspects import NO_SUSPECTS, Suspects
from cambox.review.pictures import (
    choose_rows,
    choose_shards,
    first_rows,
    has_changed,
    read_pictures,
    webp,
)
from cambox.review.sheet import SheetTile, shrunk
from cambox.sources.decode import SampleStatus

# A thousand pictures stay below 15 MB: with base64 these are 10 MB at most, and maps and boxes of a
# picture have the rest (see MOST_MAP_BYTES).
MOST_THUMBNAIL_BYTES = 7_500
THUMBNAIL_SIDE = 320
SHEET_TILES = 24
# Of the sample, at most so many more rows are shown because they failed.
FAILED_SHARE = 0.1
_DECODED = (str(SampleStatus.ok), str(SampleStatus.no_label))


@dataclass
class Item:
    """One row that is shown.

    Attributes:
        row: as its file has it, by the names of the columns.
        shard: its place in the gallery's list of shards.
        thumbnail: WebP in base64; empty where there is none.
        problem: why there is no picture; None where there is one.
        beside: what the other output has for it; None where there is none.
    """

    row: Mapping[str, Any]
    shard: int
    thumbnail: str = ""
    problem: str | None = None
    beside: OtherBoxes | None = None


@dataclass
class Gallery:
    """Everything the page and the sheet show.

    Attributes:
        seed: which rows are sampled; see ``pictures``.
        sampled: rows drawn evenly; the other items are there because they failed.
        sampled_shards: that those come from.
        suspects: whose pictures are shown before all others.
        suspected: pictures that are shown for that reason.
        beside: the other output, whose boxes are shown too.
        items: in the order of their shard and place.
        shards: the URIs that ``Item.shard`` counts.
        changed_shards: of those, the ones in another state than when they were annotated.
        tiles: of the sheet.
    """

    recipe: PublishedRecipe
    distributions: Distributions
    seed: int
    sampled: int = 0
    sampled_shards: int = 0
    suspects: Suspects = NO_SUSPECTS
    suspected: int = 0
    beside: Beside | None = None
    items: list[Item] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    changed_shards: list[str] = field(default_factory=list)
    tiles: list[SheetTile] = field(default_factory=list)


def collect(
    output: str,
    sample: int = 1000,
    seed: int = 0,
    most_shards: int = 64,
    suspects: Suspects = NO_SUSPECTS,
    beside: str | None = None,
    on_file: Advance | None = None,
    on_picture: Advance | None = None,
) -> Gallery:
    """Read what the gallery shows.

    All rows are counted, from a few columns. Pictures and maps are read of the sample alone: its
    shards one after the other, each up to the last picture that is wanted of it.

    Args:
        output: URI of a recipe's folder, or of an output (see ``recipe_folder``).
        sample: rows to show.
        most_shards: that the sample is read from.
        suspects: pictures to show as well, the worst ``sample`` of at most as many shards.
        beside: URI of another output over the same shards, whose boxes are shown too.
        on_file: called with the number of files, after each one whose columns were read.
        on_picture: called with the number of rows to show, after each of them.

    Raises:
        RequestError: the output cannot be read, or has none of the suspects.
    """
    recipe = open_recipe(output)
    gallery = Gallery(recipe, Distributions(len(recipe.footer.classes)), seed, suspects=suspects)
    if beside is not None:
        gallery.beside = Beside(recipe, open_recipe(beside))
    doubted = suspects.places(recipe.files, sample, most_shards)
    gallery.suspected = sum(map(len, doubted.values()))
    failed = first_rows(_without_picture(gallery, on_file), round(FAILED_SHARE * sample), seed)
    chosen = choose_rows(choose_shards(recipe.files, most_shards, seed), sample, seed)
    gallery.sampled = sum(map(len, chosen.values()))
    gallery.sampled_shards = len(chosen)
    shown = [
        sorted(set().union(*(places.get(file.uri, ()) for places in (chosen, failed, doubted))))
        for file in recipe.files
    ]
    total = sum(map(len, shown))
    for file, places in zip(recipe.files, shown, strict=True):
        for _ in _show(gallery, file, places):
            if on_picture is not None:
                on_picture(total)
    return gallery


def _without_picture(
    gallery: Gallery, on_file: Advance | None
) -> Iterator[tuple[PublishedFile, np.ndarray]]:
    """Count all rows; gives of each file the places of those without a picture."""
    for file in gallery.recipe.files:
        decoded = [np.zeros(0, bool)]
        for batch in file.batches(COLUMNS):
            gallery.distributions.add(batch)
            decoded.append(as_numpy(pc.is_in(batch["status"], pa.array(_DECODED, pa.string()))))
        yield file, np.flatnonzero(~np.concatenate(decoded))
        if on_file is not None:
            on_file(len(gallery.recipe.files))


def _show(gallery: Gallery, file: PublishedFile, places: Sequence[int]) -> Iterator[None]:
    """Add some rows of one file and their pictures; yields after each row."""
    if not places:
        return
    shard, rows = file.shard, list(file.rows_at(places))
    items = {row["key"]: Item(row, len(gallery.shards)) for row in rows}
    if gallery.beside is not None:
        for key, other in gallery.beside.of(file, rows).items():
            items[key].beside = other
    gallery.shards.append(shard.uri)
    # As many from each shard, so that the sheet is not one shard's.
    share = len(gallery.shards) / max(gallery.sampled_shards, 1)
    most_tiles = min(SHEET_TILES, math.ceil(SHEET_TILES * share))
    sizes = {row["key"]: (row["width"], row["height"]) for row in rows if row["status"] in _DECODED}
    if sizes and has_changed(shard):
        gallery.changed_shards.append(shard.uri)
    max_pixels = gallery.recipe.settings["input"]["max_pixels"]
    offset = gallery.recipe.offset
    for picture in read_pictures(shard, sizes, max_pixels, gallery.recipe.image_rule):
        item = items[picture.key]
        item.problem = picture.problem
        if picture.pixels is not None:
            data = webp(within(picture.pixels, THUMBNAIL_SIDE), MOST_THUMBNAIL_BYTES)
            item.thumbnail = base64.b64encode(data).decode()
            if len(gallery.tiles) < most_tiles and item.row["objects"]:
                gallery.tiles.append(_tile(item.row, picture.pixels, offset))
        yield
    gallery.items.extend(items.values())
    for _ in range(len(rows) - len(sizes)):
        yield


def _tile(row: Mapping[str, Any], pixels: Picture, offset: float) -> SheetTile:
    boxes = boxes_from_arrow(pa.array([row["objects"]], pa.list_(OBJECT_TYPE)))
    first = row["objects"][0]["class_id"]
    stored = next((one for one in row.get("maps", ()) if one["class_id"] == first), None)
    score_map = None if stored is None else StoredMap(**stored).restore()
    return shrunk(SheetTile(pixels, row["key"], score_map, boxes, offset=offset))
