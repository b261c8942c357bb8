"""What a worker made of the two built-in pictures, and whether another makes the same of them.

A digest of settings cannot tell that another version of a library decodes, resizes or computes
otherwise. So each worker annotates these pictures first, every file that it publishes says what
came of them, and a run that would add other rows to what is published says so before it begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cambox.boxes import Boxes, iou
from cambox.output.rows import ClassScore

FILES = ("turned.jpg", "see_through.png")


class _Tolerance(NamedTuple):
    """How far machines with the same libraries may differ, by the rounding of the network."""

    probability: float
    iou: float


_TOLERANCES = {"float32": _Tolerance(0.001, 0.95), "bfloat16": _Tolerance(0.05, 0.8)}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class PictureRow(_Part):
    """What came of one picture.

    Attributes:
        pixels: SHA-256 of the decoded, upright picture; None where a GPU decodes, whose pixels
            differ from one make to the next.
        classes: the model's top-k: class and probability, 0 to 1.
        boxes: of each class the box that the recipe holds best: class, and corners in pixels.
    """

    pixels: str | None
    classes: tuple[tuple[int, float], ...]
    boxes: tuple[tuple[int, float, float, float, float], ...]

    @classmethod
    def of(cls, pixels: bytes | None, classes: Iterable[ClassScore], boxes: Boxes) -> PictureRow:
        """A row of a picture, rounded to what is compared."""
        best = boxes[boxes.component == 0]
        found = zip(best.class_id.tolist(), best.corners.round(1).tolist(), strict=True)
        return cls(
            pixels=None if pixels is None else hashlib.sha256(pixels).hexdigest()[:16],
            classes=tuple((score.class_id, round(score.probability, 4)) for score in classes),
            boxes=tuple((class_id, *corners) for class_id, corners in found),
        )

    def difference(self, now: PictureRow, tolerance: _Tolerance | None) -> str | None:
        """What ``now`` has otherwise, in words; None: nothing that rounding does not explain.

        Args:
            tolerance: None: only the pixels are compared.
        """
        if self.pixels is not None and now.pixels is not None and self.pixels != now.pixels:
            return "is decoded to other pixels"
        if tolerance is None:
            return None
        before, after = dict(self.classes), dict(now.classes)
        # The least likely of the best may be others by a hair.
        for class_id in before.keys() & after.keys():
            if abs(after[class_id] - before[class_id]) > tolerance.probability:
                return (
                    f"has class {class_id} with a probability of {after[class_id]:g} in place of "
                    f"{before[class_id]:g}"
                )
        if before and not before.keys() & after.keys():
            return "has other classes"
        if bool(self.boxes) != bool(now.boxes):
            return f"has {len(now.boxes) or 'no'} boxes in place of {len(self.boxes) or 'none'}"
        corners = {class_id: box for class_id, *box in self.boxes}
        for class_id, *box in now.boxes:
            overlap = float(iou(np.array(corners.get(class_id, box)), np.array(box)))
            if overlap < tolerance.iou:
                return (
                    f"has a box of class {class_id} that meets the one before with an IoU of "
                    f"{overlap:.2f}"
                )
        return None


class Canary(_Part):
    """What a worker made of the built-in pictures under a recipe.

    Attributes:
        device: kind of what computed it, such as ``cpu`` and ``cuda``.
        precision: that the network computes in.
        rows: in the order of ``FILES``.
    """

    device: str
    precision: str
    rows: tuple[PictureRow, PictureRow]

    @classmethod
    def read(cls, text: str) -> Canary | None:
        """From a footer; None where another version of cambox wrote what this one cannot read."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def difference(self, now: Canary) -> str | None:
        """What other libraries make otherwise, in words; None: the same, but for rounding."""
        # How far a CPU and a GPU may be apart is not known, so of these only pixels are compared.
        alike = now.device == self.device
        tolerance = _TOLERANCES.get(now.precision, _TOLERANCES["bfloat16"])
        for name, before, after in zip(FILES, self.rows, now.rows, strict=True):
            if found := before.difference(after, tolerance if alike else None):
                return f"the built-in picture {name} {found}"
        return None
