"""The gallery as one HTML file that asks nothing of the network and runs no text that it shows."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from cambox.console import page_template, write_files
from cambox.output.rows import SIDES, StoredMap
from cambox.review.gallery.collect import Gallery, Item
from cambox.review.gallery.distributions import MOST_BOXES, NUMBERS, SHARE_BINS, SIZES
from cambox.review.palette import CLASSES, heat_ramp, style_sheet
from cambox.review.sheet import draw_sheet, png

MOST_CLASSES = 30
MOST_REASONS = 20
# Of the maps of a picture together, so that a thousand pictures stay below 15 MB. Finer maps are
# shown coarser: the page draws them smoothly anyway.
MOST_MAP_BYTES = 3_000
MOST_CELLS = 32
HEAT_STEPS = 16
SCRIPTS = ("filters.js", "decisions.js", "picture.js", "cards.js", "detail.js", "page.js")
STYLES = ("page.css", "pictures.css")


@dataclass(frozen=True)
class Bar:
    """One bar of a plot; ``share`` of the longest one, 0 to 1."""

    label: str
    count: int
    share: float

    @property
    def short(self) -> str:
        """The count in at most four characters, such as 1.2M; none of nothing."""
        return short_count(self.count) if self.count else ""


def write_gallery(gallery: Gallery, folder: Path) -> list[Path]:
    """Write ``gallery.html``, and ``sheet.png`` where there is a picture with a box.

    Raises:
        RequestError: they cannot be written.
    """
    names = gallery.recipe.footer.classes
    sheet = png(draw_sheet(gallery.tiles, names)) if gallery.tiles else None
    page = render_page(gallery).encode()
    return write_files(folder, {"gallery.html": page, "sheet.png": sheet})


def render_page(gallery: Gallery) -> str:
    """The page, with everything in it."""
    script = "".join(map(_asset, SCRIPTS))
    style = style_sheet() + "".join(map(_asset, STYLES))
    counts = gallery.distributions
    settings = gallery.recipe.settings
    shares = _steps(1, "{:.2f} to {:.2f}")
    numbers = [*map(str, range(MOST_BOXES)), f"{MOST_BOXES} or more"]
    # What follows the last one that is not empty is left out.
    most = 1 + int(np.max(np.flatnonzero(counts.boxes_per_image), initial=0))
    return page_template("cambox.review.gallery").render(
        gallery=gallery,
        counts=counts,
        settings=settings,
        has_maps=bool(settings["output"]["store_maps"]),
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; "
        f"style-src '{_hash(style)}'",
        # Base64 has no character that HTML knows.
        thumbnails=[Markup(item.thumbnail) for item in gallery.items],
        data=script_safe_json(_data(gallery)),
        boxes_per_image=bars(counts.boxes_per_image[:most], numbers),
        areas=bars(counts.areas, _steps(100, "{:.0f} to {:.0f} %")),
        box_scores=bars(counts.box_scores, shares),
        class_scores=bars(counts.class_scores, shares),
        classes=class_bars(counts.class_boxes, gallery.recipe.footer.classes),
        groups={
            "size of the box": zip(SIZES, counts.by_size.tolist(), strict=True),
            "boxes of its class in the image": zip(NUMBERS, counts.by_number.tolist(), strict=True),
        },
        classes_without=int((counts.class_boxes == 0).sum()),
        reasons=counts.reasons[:MOST_REASONS],
        more_reasons=max(0, len(counts.reasons) - MOST_REASONS),
    )


def script_safe_json(value: object) -> Markup:
    """JSON that a ``<script>`` element can hold: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def bars(counts: np.ndarray, labels: Sequence[str]) -> list[Bar]:
    """Bars of a histogram; labels that are left over stand for nothing."""
    longest = max(int(counts.max(initial=0)), 1)
    return [
        Bar(label, count, count / longest)
        for label, count in zip(labels, counts.tolist(), strict=False)
    ]


def short_count(count: int) -> str:
    """A count from 0 in four characters: 999, 1.2k, 35k, 999k, 1.2M.

    It is cut, not rounded: 999,999 is no million.
    """
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * unit:
            return f"{count // unit}{letter}"
        if count >= unit:
            tenths = count * 10 // unit
            return f"{tenths // 10}.{tenths % 10}{letter}"
    return str(count)


def class_bars(counts: np.ndarray, names: Sequence[str]) -> list[Bar]:
    """The classes with most boxes, and the others together."""
    order = np.argsort(-counts, kind="stable")
    shown = order[: MOST_CLASSES if len(order) > MOST_CLASSES + 1 else len(order)]
    listed = bars(counts[shown], [names[at] for at in shown])
    rest = order[len(shown) :]
    if len(rest):
        total = int(counts[rest].sum())
        share = min(total / max(listed[0].count, 1), 1.0)
        listed.append(Bar(f"{len(rest)} other classes", total, share))
    return listed


def _steps(most: int, form: str) -> list[str]:
    """The steps of ``Distributions``' shares, 1 being ``most``: 0.00 to 0.05, and so on."""
    edges = np.arange(SHARE_BINS + 1) * most / SHARE_BINS
    return [form.format(low, high) for low, high in itertools.pairwise(edges)]


def _data(gallery: Gallery) -> dict[str, object]:
    """What the page's script reads."""
    items = [
        _item(item) | {"doubts": gallery.suspects.of(gallery.shards[item.shard], item.row["key"])}
        for item in gallery.items
    ]
    return {
        "recipe": gallery.recipe.footer.recipe_digest,
        # All of them, because a reviewer may name any.
        "classes": gallery.recipe.footer.classes,
        "colours": len(CLASSES),
        "heat": heat_ramp(HEAT_STEPS),
        "offset": gallery.recipe.offset,
        "shards": gallery.shards,
        "items": items,
    }


def _item(item: Item) -> dict[str, Any]:
    """A row in the names that the script knows; sides are in pixels, exactly as in the row."""
    row = item.row
    maps = row.get("maps", ())
    most_cells = min(MOST_CELLS, math.isqrt(MOST_MAP_BYTES // max(len(maps), 1)))
    return {
        "key": row["key"],
        "shard": item.shard,
        **{name: row[name] for name in ("sample_index", "status", "error", "width", "height")},
        "labels": row["labels"] or [],
        "predicted": [[one["class_id"], round(one["probability"], 4)] for one in row["classes"]],
        "boxes": [
            {
                **{name: one[name] for name in ("class_id", "rank", "component")},
                "class_score": round(one["class_score"], 4),
                "box_score": _shortest(one["box_score"]),
                "at_edge": one["touches_edge"],
                "sides": [_shortest(one[side]) for side in SIDES],
            }
            for one in row["objects"]
        ],
        "maps": [_map(StoredMap(**entry), most_cells) for entry in maps],
        "problem": item.problem,
        "disagreement": None if item.beside is None else round(item.beside.disagreement, 4),
        "beside": []
        if item.beside is None
        else [
            {"class_name": one["class_name"], "sides": [_shortest(one[side]) for side in SIDES]}
            for one in item.beside.objects
        ],
    }


def _shortest(value: float) -> float:
    """The same float32 in as few digits as say which it is."""
    return float(str(np.float32(value)))


def _map(stored: StoredMap, most_cells: int) -> dict[str, Any]:
    """A map's bytes, row by row, in base64."""
    steps = stored.steps
    scale = most_cells / max(steps.shape)
    if scale < 1:
        size = max(1, round(stored.width * scale)), max(1, round(stored.height * scale))
        steps = np.asarray(cv2.resize(steps, size, interpolation=cv2.INTER_AREA))
    height, width = steps.shape
    return {
        "class_id": stored.class_id,
        "rank": stored.rank,
        "height": height,
        "width": width,
        "values": base64.b64encode(steps.tobytes()).decode(),
    }


def _asset(name: str) -> str:
    return files("cambox.review.gallery").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
