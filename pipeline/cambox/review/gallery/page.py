"""The gallery as one HTML file that asks nothing of the network and runs no text that it shows."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cambox.review.gallery.collect import Gallery
from cambox.review.gallery.distributions import MOST_BOXES, SHARE_BINS

MOST_CLASSES = 30
MOST_REASONS = 20


@dataclass(frozen=True)
class Bar:
    """One bar of a plot; ``share`` of the longest one, 0 to 1."""

    label: str
    count: int
    share: float


def render_page(gallery: Gallery) -> str:
    """The page, with everything in it."""
    environment = Environment(
        loader=PackageLoader("cambox.review.gallery", package_path=""),
        # Keys, class names and errors are other people's text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _asset("filters.js") + _asset("page.js"), _asset("page.css")
    counts = gallery.distributions
    return environment.get_template("page.html").render(
        gallery=gallery,
        counts=counts,
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; "
        f"style-src '{_hash(style)}'",
        # Base64 has no character that HTML knows.
        thumbnails=[Markup(data) for data in gallery.thumbnails],
        data=script_safe_json(_data(gallery)),
        boxes_per_image=bars(
            counts.boxes_per_image,
            [*map(str, range(MOST_BOXES)), f"{MOST_BOXES} or more"],
            trim=True,
        ),
        areas=bars(counts.areas, percent_steps()),
        box_scores=bars(counts.box_scores, share_steps()),
        class_scores=bars(counts.class_scores, share_steps()),
        classes=class_bars(counts.class_boxes, gallery.footer.classes),
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


def bars(counts: np.ndarray, labels: Sequence[str], trim: bool = False) -> list[Bar]:
    """Bars of a histogram.

    Args:
        trim: leave out what follows the last one that is not empty.
    """
    last = int(np.max(np.flatnonzero(counts), initial=0)) + 1 if trim else len(counts)
    longest = max(int(counts.max(initial=0)), 1)
    return [
        Bar(label, int(count), float(count) / longest)
        for label, count in zip(labels[:last], counts[:last], strict=True)
    ]


def class_bars(counts: np.ndarray, names: Sequence[str]) -> list[Bar]:
    """The classes with most boxes, and the others together."""
    order = np.argsort(-counts, kind="stable")
    shown = order[: MOST_CLASSES if len(order) > MOST_CLASSES + 1 else len(order)]
    longest = max(int(counts.max(initial=0)), 1)
    listed = [Bar(names[at], int(counts[at]), float(counts[at]) / longest) for at in shown]
    rest = order[len(shown) :]
    if len(rest):
        total = int(counts[rest].sum())
        listed.append(Bar(f"{len(rest)} other classes", total, min(total / longest, 1.0)))
    return listed


def share_steps() -> list[str]:
    """The steps of ``Distributions``' shares: 0.00 to 0.05, and so on."""
    edges = np.arange(SHARE_BINS + 1) / SHARE_BINS
    return [f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges)]


def percent_steps() -> list[str]:
    """The same in percent."""
    edges = np.arange(SHARE_BINS + 1) * 100 / SHARE_BINS
    return [f"{low:.0f} to {high:.0f} %" for low, high in itertools.pairwise(edges)]


def _data(gallery: Gallery) -> dict[str, object]:
    used = {
        class_id
        for item in gallery.items
        for class_id in (
            *item.labels,
            *(class_id for class_id, _ in item.predicted),
            *(box.class_id for box in item.boxes),
            *(entry.class_id for entry in item.maps),
        )
    }
    names = gallery.footer.classes
    return {
        # Only what the sample has: a model may know many thousands.
        "classes": {class_id: names[class_id] for class_id in sorted(used)},
        "shards": gallery.shards,
        "items": [asdict(item) for item in gallery.items],
    }


def _asset(name: str) -> str:
    return files("cambox.review.gallery").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
