"""From an output to what the gallery shows: counts over all rows, and a sample to look at."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem

from cambox.errors import RequestError
from cambox.output.columns import read_columns, read_rows
from cambox.output.folders import Folder
from cambox.output.footer import Footer
from cambox.output.reading import published_recipe
from cambox.output.rows import StoredMap
from cambox.review.draw import Box
from cambox.review.gallery.distributions import COLUMNS, Distributions
from cambox.review.gallery.items import Item, item_of
from cambox.review.pictures import Wanted, has_changed, jpeg, read_pictures, within
from cambox.review.sampling import FirstRows, ShardRows, choose_rows, choose_shards, row_turns
from cambox.review.sheet import SheetTile
from cambox.sources.decode import SampleStatus

# With base64 a thousand of these are 20 MB; five maps each of the finest kind add 7.
MOST_THUMBNAIL_BYTES = 15_000
THUMBNAIL_SIDE = 360
SHEET_TILES = 24
SHEET_PICTURE_SIDE = 640
# Of the sample, at most so many more rows are shown because they failed.
FAILED_SHARE = 0.1
_DECODED = (str(SampleStatus.ok), str(SampleStatus.no_label))


@dataclass(frozen=True)
class GalleryRequest:
    """What to look at.

    Attributes:
        output: URI of a recipe's folder, or of an output that holds one recipe.
        sample: rows to show.
        seed: which rows; see ``sampling``.
        most_shards: that the sample is read from.
    """

    output: str
    sample: int = 1000
    seed: int = 0
    most_shards: int = 64


@dataclass
class Gallery:
    """Everything the page and the sheet show.

    Attributes:
        items: in the order of their shard and place.
        thumbnails: JPEG in base64, one an item; empty where there is none.
        shards: the URIs that ``Item.shard`` counts.
        sampled: rows drawn evenly; the other items are there because they failed.
        sampled_shards: that those come from.
        changed_shards: of those, the ones in another state than when they were annotated.
    """

    folder: str
    footer: Footer
    recipe: Mapping[str, Any]
    distributions: Distributions
    files: int
    request: GalleryRequest
    sampled: int = 0
    sampled_shards: int = 0
    items: list[Item] = field(default_factory=list)
    thumbnails: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    changed_shards: list[str] = field(default_factory=list)
    tiles: list[SheetTile] = field(default_factory=list)

    @property
    def has_maps(self) -> bool:
        """Whether the recipe stores maps."""
        return bool(self.recipe["output"]["store_maps"])


def collect(
    request: GalleryRequest,
    on_file: Callable[[int], None] | None = None,
    on_picture: Callable[[int], None] | None = None,
) -> Gallery:
    """Read what the gallery shows.

    All rows are counted, from a few columns. Pictures and maps are read of the sample alone: its
    shards one after the other, each up to the last picture that is wanted of it.

    Args:
        on_file: called with the number of files, after each one whose columns were read.
        on_picture: called with the number of rows to show, after each of them.

    Raises:
        RequestError: the output cannot be read.
    """
    filesystem, folder = published_recipe(request.output)
    gallery, files, failed = _count(filesystem, folder, request, on_file)
    chosen = choose_rows(
        choose_shards(files, request.most_shards, request.seed), request.sample, request.seed
    )
    gallery.sampled = sum(map(len, chosen.values()))
    gallery.sampled_shards = len(chosen)
    places = _merged(chosen, failed.places())
    total = sum(map(len, places.values()))
    for file in files:
        if file.path in places:
            for _ in _show(gallery, filesystem, folder, file, places[file.path]):
                if on_picture is not None:
                    on_picture(total)
    return gallery


def _count(
    filesystem: AbstractFileSystem,
    folder: Folder,
    request: GalleryRequest,
    on_file: Callable[[int], None] | None,
) -> tuple[Gallery, list[ShardRows], FirstRows]:
    gallery: Gallery | None = None
    files: list[ShardRows] = []
    failed = FirstRows(round(FAILED_SHARE * request.sample))
    for path in folder.parquet:
        footer, batches = read_columns(filesystem, folder, path, COLUMNS)
        if gallery is None:
            gallery = Gallery(
                folder=folder.uri,
                footer=footer,
                recipe=json.loads(footer.recipe),
                distributions=Distributions(len(footer.classes)),
                files=len(folder.parquet),
                request=request,
            )
        if footer.recipe_digest != gallery.footer.recipe_digest:
            raise RequestError(
                f"{folder.uri_of(path)} is of another recipe than the files beside it; run "
                "cambox verify, and move it away"
            )
        rows = 0
        without_picture: list[np.ndarray] = []
        for batch in batches:
            gallery.distributions.add(batch)
            decoded = pc.is_in(batch["status"], pa.array(_DECODED, pa.string()))
            places = np.flatnonzero(~decoded.to_numpy(zero_copy_only=False))
            without_picture.append(rows + places)
            rows += batch.num_rows
        files.append(ShardRows(path, footer.shard, rows))
        places = np.concatenate([np.zeros(0, np.int64), *without_picture])
        failed.offer(path, places, row_turns(request.seed, footer.shard.uri, rows)[places])
        if on_file is not None:
            on_file(len(folder.parquet))
    assert gallery is not None
    return gallery, files, failed


def _merged(first: Mapping[str, list[int]], second: Mapping[str, list[int]]) -> dict[str, set[int]]:
    return {path: {*first.get(path, ()), *second.get(path, ())} for path in {**first, **second}}


def _show(
    gallery: Gallery,
    filesystem: AbstractFileSystem,
    folder: Folder,
    file: ShardRows,
    places: set[int],
) -> Iterator[None]:
    """Add the rows of one file and their pictures."""
    shard = file.shard
    rows = list(read_rows(filesystem, folder, file.path, sorted(places)))
    gallery.shards.append(shard.uri)
    # As many from each shard, so that the sheet is not one shard's.
    share = len(gallery.shards) / max(gallery.sampled_shards, 1)
    most_tiles = min(SHEET_TILES, math.ceil(SHEET_TILES * share))
    wanted = {
        row["key"]: Wanted(row["key"], row["width"], row["height"])
        for row in rows
        if row["status"] in _DECODED
    }
    problems: dict[str, str | None] = {}
    thumbnails: dict[str, str] = {}
    of_key = {row["key"]: row for row in rows}
    if wanted and has_changed(shard):
        gallery.changed_shards.append(shard.uri)
    for picture in read_pictures(shard, wanted, gallery.recipe["input"]["max_pixels"]):
        problems[picture.key] = picture.problem
        if picture.pixels is not None:
            small = within(picture.pixels, THUMBNAIL_SIDE)
            data = jpeg(small, MOST_THUMBNAIL_BYTES)
            thumbnails[picture.key] = base64.b64encode(data).decode()
            if len(gallery.tiles) < most_tiles and of_key[picture.key]["objects"]:
                gallery.tiles.append(_tile(of_key[picture.key], picture.pixels))
        yield
    for row in rows:
        if row["key"] not in wanted:
            yield
        gallery.items.append(item_of(row, len(gallery.shards) - 1, problems.get(row["key"])))
        gallery.thumbnails.append(thumbnails.get(row["key"], ""))


def _tile(row: Mapping[str, Any], pixels: np.ndarray) -> SheetTile:
    image = within(pixels, SHEET_PICTURE_SIDE)
    x, y = image.shape[1] / row["width"], image.shape[0] / row["height"]
    first = row["objects"][0]
    stored = next(
        (entry for entry in row.get("maps", ()) if entry["class_id"] == first["class_id"]), None
    )
    return SheetTile(
        image=image,
        title=row["key"],
        score_map=None if stored is None else StoredMap(**stored).restore(),
        boxes=tuple(
            Box(
                entry["x_min"] * x,
                entry["y_min"] * y,
                entry["x_max"] * x,
                entry["y_max"] * y,
                entry["class_name"],
                entry["box_score"],
            )
            for entry in row["objects"]
        ),
    )
