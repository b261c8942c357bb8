"""Which classes of an image get a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class WantedClass:
    """A class that gets a map; rank 0 is a label given with the sample, 1 the best predicted."""

    class_id: int
    rank: int


def wanted_classes(
    predicted: Sequence[int],
    probabilities: Sequence[float],
    labels: Sequence[int],
    classes: Literal["predicted", "label", "both"],
    ranks: Sequence[int] | None = None,
    min_probability: float = 0.0,
) -> list[WantedClass]:
    """Choose the classes of one image.

    Args:
        predicted: the model's top-k classes, best first.
        probabilities: of those classes, 0 to 1.
        labels: the classes given with the sample, in their order.
        classes: the model's classes, the sample's own, or both. With ``both`` a predicted class
            that is also a label appears once, as the label.
        ranks: only these ranks of the predicted classes; None: all.
        min_probability: predicted classes below it are left out.

    Returns:
        Labels first, then predicted classes by rank.
    """
    wanted = [WantedClass(label, 0) for label in labels] if classes != "predicted" else []
    if classes == "label":
        return wanted
    taken = {choice.class_id for choice in wanted}
    for rank, (class_id, probability) in enumerate(
        zip(predicted, probabilities, strict=True), start=1
    ):
        chosen = ranks is None or rank in ranks
        if chosen and probability >= min_probability and class_id not in taken:
            wanted.append(WantedClass(class_id, rank))
    return wanted
