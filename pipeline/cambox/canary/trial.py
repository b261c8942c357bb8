"""Annotating the built-in pictures, as a worker annotates all others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cambox.boxes import Boxes
from cambox.canary.rows import FILES, Canary, PictureRow
from cambox.sources.decode import decode_image
from cambox.sources.load import load_samples
from cambox.sources.samples import Sample
from cambox.threads import Stopwatch

if TYPE_CHECKING:
    from cambox.annotator import Annotator


def pictures() -> dict[str, bytes]:
    """The files, by name: a JPEG that is to be turned, and a PNG that one sees through."""
    return {name: Path(__file__).with_name(name).read_bytes() for name in FILES}


def tried(annotator: Annotator) -> Canary:
    """What an annotator makes of the pictures, each with class 0 as its label."""
    files = pictures()
    samples = [Sample(name, 0, {"image": data}, "image") for name, data in files.items()]
    loaded = [replace(one, labels=(0,)) for one in load_samples(samples, annotator.load_rule)]
    # Where shards' batches are, for the rounding depends on how many threads compute.
    lane = annotator.lanes[0]
    batch = annotator.lane_pool.submit(lane.annotate, "", loaded, Stopwatch()).result()
    boxes = Boxes.joined(batch.boxes)
    settings = annotator.config.input

    def row(number: int, data: bytes) -> PictureRow:
        readable = settings.decoder != "gpu" and loaded[number].pixels is not None
        pixels = decode_image(data, settings.max_pixels).tobytes() if readable else None
        return PictureRow.of(pixels, batch.rows[number].classes, boxes[boxes.image == number])

    first, second = (row(number, data) for number, data in enumerate(files.values()))
    classifier = lane.classifier
    return Canary(
        device=classifier.device.type, precision=classifier.precision, rows=(first, second)
    )
