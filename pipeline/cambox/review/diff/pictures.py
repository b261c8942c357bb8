"""The largest changes as pictures: the boxes of A on the left, those of B on the right."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from cambox.review.diff.report import Difference, ImageChange
from cambox.review.draw import Box
from cambox.review.pictures import ShownPicture, Wanted, read_pictures, within
from cambox.review.sheet import SheetTile
from cambox.sources.shards import Shard

PICTURE_SIDE = 640


def picture_changes(
    changes: Sequence[ImageChange],
) -> tuple[list[SheetTile], dict[tuple[str, str], str]]:
    """Tiles of the changes whose picture can be read; and why not, by shard and key, of the others.

    Every shard is read once, up to its last picture.
    """
    wanted: dict[Shard, dict[str, Wanted]] = defaultdict(dict)
    limits: dict[Shard, int] = {}
    for change in changes:
        row = change.row_b
        if row["width"] is not None:
            wanted[change.shard][row["key"]] = Wanted(row["key"], row["width"], row["height"])
            limits[change.shard] = json.loads(change.footer.recipe)["input"]["max_pixels"]
    found: dict[tuple[str, str], ShownPicture] = {}
    for shard, of_shard in wanted.items():
        for picture in read_pictures(shard, of_shard, limits[shard]):
            found[shard.uri, picture.key] = picture
    tiles: list[SheetTile] = []
    problems: dict[tuple[str, str], str] = {}
    for change in changes:
        place = change.shard.uri, change.row_b["key"]
        shown = found.get(place)
        if shown is None:
            problems[place] = change.row_b["error"] or "it could not be decoded"
        elif shown.pixels is None:
            problems[place] = shown.problem or "no picture"
        else:
            image = within(shown.pixels, PICTURE_SIDE)
            scale = image.shape[1] / shown.pixels.shape[1], image.shape[0] / shown.pixels.shape[0]
            tiles.append(
                SheetTile(
                    image=image,
                    title=f"{place[1]}: changed by {change.amount:.2f}",
                    score_map=None,
                    boxes=_boxes(change.row_a, scale),
                    after=_boxes(change.row_b, scale),
                )
            )
    return tiles, problems


def with_problems(report: Difference, problems: Mapping[tuple[str, str], str]) -> Difference:
    """The report, with the reasons why some of its largest changes have no picture."""
    largest = [
        change.model_copy(update={"problem": problems.get((change.shard, change.key))})
        for change in report.largest
    ]
    return report.model_copy(update={"largest": largest})


def _boxes(row: Mapping[str, Any], scale: tuple[float, float]) -> tuple[Box, ...]:
    return tuple(
        Box(
            entry["x_min"] * scale[0],
            entry["y_min"] * scale[1],
            entry["x_max"] * scale[0],
            entry["y_max"] * scale[1],
            entry["class_name"],
            entry["box_score"],
        )
        for entry in row["objects"]
    )
