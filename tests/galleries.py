"""Galleries for tests, made without an output or a shard."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np

from cambox.output.folders import Folder
from cambox.output.footer import Footer
from cambox.output.reading import PublishedRecipe
from cambox.review.gallery.collect import MOST_THUMBNAIL_BYTES, Gallery, Item
from cambox.review.gallery.distributions import Distributions
from cambox.review.pictures import webp
from cambox.sources.shards import Shard

BAD_KEY = "<img src=x onerror=window.hacked=1>"
BAD_CLASS = "</script><script>window.hacked=1</script>"


def thumbnail(number: int) -> str:
    """A noisy picture of about the largest size that the gallery allows."""
    noise = np.random.default_rng(number % 7).integers(0, 256, (110, 150, 3), dtype=np.uint8)
    return base64.b64encode(webp(noise, MOST_THUMBNAIL_BYTES)).decode()


def made_gallery(count: int, offset: float = 0.0) -> Gallery:
    """Rows 0 to count - 1; the box of row n has the score n / count and a side of n / count.

    The first is of an unreadable image, and of the second the shard is gone.
    """
    thumbnails = [thumbnail(number) for number in range(7)]
    stored = {"height": 8, "width": 8, "low": 0.0, "high": 1.0, "values": bytes(range(0, 256, 4))}
    items = []
    for number in range(count):
        share = number / count
        class_id = number % 2
        row = {
            "key": f"key-{number:04d}",
            "sample_index": number,
            "status": "ok",
            "error": None,
            "width": 400,
            "height": 300,
            "labels": None,
            "classes": [{"class_id": class_id, "rank": 1, "probability": 0.5}],
            "maps": [{"class_id": class_id, "rank": 1, **stored}],
        }
        box = {
            "class_id": class_id,
            "rank": 1,
            "component": 0,
            "class_score": 0.5,
            "box_score": share,
            "touches_edge": False,
            "x_min": 0.0,
            "y_min": 0.0,
            "x_max": 400 * max(share, 0.001),
            "y_max": 300.0,
        }
        shown = thumbnails[number % 7] if number > 1 else ""
        items.append(Item({**row, "objects": [box]}, 0, shown))
    without_image = {
        "key": BAD_KEY,
        "status": "unreadable",
        "error": "cut <b>short</b>",
        "width": None,
        "height": None,
        "classes": [],
        "maps": [],
        "objects": [],
    }
    items[0] = Item({**items[0].row, **without_image}, 0)
    items[1] = replace(items[1], problem="the shard cannot be read: gone")
    shard = Shard("s3://bucket/shard.tar", 1, "")
    settings = {"input": {}, "model": {}, "cam": {"offset": offset}, "boxes": {}}
    recipe = json.dumps({**settings, "output": {"store_maps": True}})
    footer = Footer(1, recipe, "0" * 64, shard, (BAD_CLASS, "dotted"), {})
    folder = Folder("s3://bucket/boxes/0123456789abcdef", (), ())
    return Gallery(
        recipe=PublishedRecipe(folder, footer, ()),
        distributions=Distributions(2),
        seed=0,
        sampled=count,
        sampled_shards=1,
        items=items,
        shards=[shard.uri],
    )
