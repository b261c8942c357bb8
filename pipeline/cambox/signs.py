"""Signs that a run is not what was meant: labels of other classes, maps that say nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cambox.boxes import Boxes
from cambox.output.rows import Row

# A box that covers so much of the image says no more than that there is an image.
FILLING = 0.9
# Fewer are too few to tell.
LEAST = 30
# So many standard deviations above what chance would hit no classifier is that knows the classes.
DEVIATIONS = 3.0


@dataclass(frozen=True)
class Signs:
    """Counts of some rows, which add up.

    Attributes:
        labelled: images with labels that get boxes.
        hits: those whose best predicted class is one of the labels.
        chance: how many would be if the model did not look, each class as likely as another.
        boxes: in all.
        filling: those that fill the image.
    """

    labelled: int = 0
    hits: int = 0
    chance: float = 0.0
    boxes: int = 0
    filling: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row], boxes: Boxes, class_count: int, labels_used: bool) -> Signs:
        """Count rows and their boxes.

        Args:
            boxes: in pixels, ``image`` being the place of their row.
            class_count: that labels and predictions count.
            labels_used: whether labels get boxes.
        """
        labelled = [row for row in rows if labels_used and row.labels and row.classes]
        sizes = np.array([(row.width or 0) * (row.height or 0) for row in rows], np.float64)
        filling = boxes.area >= FILLING * sizes[boxes.image]
        return cls(
            labelled=len(labelled),
            hits=sum(row.classes[0].class_id in (row.labels or ()) for row in labelled),
            chance=sum(len(row.labels or ()) for row in labelled) / class_count,
            boxes=len(boxes),
            filling=int(filling.sum()),
        )

    def __add__(self, other: Signs) -> Signs:
        return Signs(**{name: count + vars(other)[name] for name, count in vars(self).items()})

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should look at, each with the remedy; none where all looks right."""
        found = []
        bound = self.chance + DEVIATIONS * math.sqrt(self.chance * max(0.0, 1 - self._share))
        if self.labelled >= LEAST and self._share < 1 and self.hits <= bound:
            found.append(
                f"warning: the model's best class is a given label in {self.hits} of "
                f"{self.labelled} images, where chance gives {self.chance:.1f}: the labels count "
                f"other classes than the model, or it has other weights or preprocessing than it "
                f"was trained with; check input.class_names, model.checkpoint, mean and std"
            )
        if self.boxes >= LEAST and 2 * self.filling > self.boxes:
            found.append(
                f"warning: {self.filling} of {self.boxes} boxes fill the image, so the maps say "
                f"little; look at them (cambox gallery), and raise boxes.threshold or check the "
                f"model's weights"
            )
        return tuple(found)

    @property
    def _share(self) -> float:
        return self.chance / max(1, self.labelled)
