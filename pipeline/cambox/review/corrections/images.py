"""What a review file says, whatever wrote it: images with the boxes that people left in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cambox.errors import RequestError


@dataclass(frozen=True)
class CorrectedBox:
    """A box that is in the image after its review.

    Attributes:
        corners: x_min, y_min, x_max, y_max, in the units of its image's ``size``.
        class_name: None where people only said that the one given is wrong.
        judged: False: nobody has said anything of this box, so it is as it was.
        class_id: in the recipe, where the file knows it: several classes may have one name.
    """

    corners: tuple[float, float, float, float]
    class_name: str | None
    judged: bool = True
    class_id: int | None = None


@dataclass(frozen=True)
class CorrectedImage:
    """An image that was reviewed.

    Attributes:
        name: by which the file knows it; often the name or the address of its file.
        where: in the review file, for messages.
        shard, key: of its row; None where the file has not kept them.
        size: width and height that the corners are of; None: pixels of the row's image.
        lacking: people say that something is in it that no box is around.
    """

    name: str
    where: str
    shard: str | None
    key: str | None
    size: tuple[float, float] | None
    boxes: tuple[CorrectedBox, ...]
    lacking: bool = False


@dataclass(frozen=True)
class ReviewFile:
    """A review file, read.

    Attributes:
        kind: what wrote it.
        adds_boxes: people could draw boxes there, so that what is missing was added.
        left_out: what is in it that no row can hold, and how often.
    """

    kind: str
    images: tuple[CorrectedImage, ...]
    adds_boxes: bool = True
    left_out: Counter[str] = field(default_factory=Counter)


def require_upright(where: str, degrees: float, tool: str) -> None:
    """See that a box is not rotated, as none here can be.

    Raises:
        RequestError: it is.
    """
    if abs(degrees) > 1e-6:
        raise RequestError(
            f"{where}: a box is rotated by {degrees:g} degrees, and boxes here are upright; set "
            f"its rotation to 0 in {tool}, or draw it anew"
        )
