"""A sample to look at: drawn with its boxes and maps, and told in lines or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cambox.errors import RequestError
from cambox.output.rows import OBJECT_TYPE, SIDES, StoredMap, boxes_from_arrow
from cambox.review.draw import Picture, draw
from cambox.review.sheet import SheetTile, draw_sheet
from cambox.review.show.find import FoundSample

SIDE = 800
MOST_MAPS = 12
_TILE_WIDTH = 800
_MOST_OF_A_SECTION = 400
_VECTORS = ("features", "border_features")


def draw_sample(sample: FoundSample) -> Picture:
    """The picture with its boxes, and where maps are stored one beside each of them.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        RequestError: there is no picture; it says why.
    """
    row = sample.row
    if sample.image is None:
        raise RequestError(f"{row['key']!r} of {sample.shard} cannot be drawn: {sample.problem}")
    maps = row.get("maps") or ()
    if not maps:
        return draw(sample.image, row["objects"], side=SIDE)
    names = sample.recipe.footer.classes
    boxes = boxes_from_arrow(pa.array([row["objects"]], pa.list_(OBJECT_TYPE)))
    tiles = [
        SheetTile(
            image=sample.image,
            title=f"{row['key']}: {names[one['class_id']]}",
            score_map=StoredMap(**one).restore(),
            boxes=boxes[boxes.class_id == one["class_id"]],
            offset=sample.offset,
        )
        for one in maps[:MOST_MAPS]
    ]
    return draw_sheet(tiles, names, columns=1 if len(tiles) < 3 else 2, tile_width=_TILE_WIDTH)


def lines(sample: FoundSample) -> Iterator[str]:
    """The row and its recipe, for a person."""
    row, recipe = sample.row, sample.recipe
    names = recipe.footer.classes
    size = f"{row['width']} x {row['height']} pixels" if row["width"] else "no size"
    yield f"{row['key']}: {row['status']}, {size}"
    yield f"sample {row['sample_index']} of {sample.shard}"
    if row.get("reviewed"):
        yield "reviewed: the boxes are a person's"
    if row["error"]:
        yield f"error: {row['error']}"
    if row["labels"] is not None:
        # With cam.classes none they need not be the model's classes.
        known = [names[label] if label < len(names) else "?" for label in row["labels"]]
        pairs = zip(known, row["labels"], strict=True)
        yield f"labels: {', '.join(f'{name} ({label})' for name, label in pairs) or 'none'}"
    if row["classes"]:
        found = (f"{names[one['class_id']]} {one['probability']:.3f}" for one in row["classes"])
        yield f"classes: {', '.join(found)}"
    yield f"boxes: {len(row['objects'])}"
    for box in row["objects"]:
        corners = ", ".join(f"{box[side]:.1f}" for side in SIDES)
        edge = ", at the edge" if box["touches_edge"] else ""
        yield (
            f"  {box['class_name']}: box_score {box['box_score']:.3f}, class_score "
            f"{box['class_score']:.3f}, {corners}{edge}"
        )
    for one in row.get("maps") or ():
        yield (
            f"map of {names[one['class_id']]}: {one['height']} x {one['width']}, "
            f"{one['low']:.3g} to {one['high']:.3g}"
        )
    yield f"recipe: {recipe.uri}"
    for section, settings in recipe.settings.items():
        if isinstance(settings, dict):
            text = json.dumps(settings, ensure_ascii=False)
            cut = f"{text[:_MOST_OF_A_SECTION]} ..." if len(text) > _MOST_OF_A_SECTION else text
            yield f"  {section}: {cut}"


def to_json(sample: FoundSample) -> dict[str, Any]:
    """The same in plain types; of maps without their values, and without features."""
    row = {name: value for name, value in sample.row.items() if name not in _VECTORS}
    if "maps" in row:
        row["maps"] = [
            {name: value for name, value in one.items() if name != "values"} for one in row["maps"]
        ]
    return {
        "row": row,
        "problem": sample.problem,
        "recipe": sample.recipe.footer.recipe_digest,
        "output": sample.recipe.uri,
        "settings": sample.recipe.settings,
    }
