"""What of a recipe says which figures can be measured, and what to set where one cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cambox.review.evaluate.report import Unmeasured

BoxesOf = Literal["given labels", "given labels and predicted classes", "predicted classes"]

NO_LABELS = Unmeasured(
    reason="not measurable: cam.classes is predicted, so no box is of a given label; annotate with "
    "--set cam.classes=both"
)
NO_TRUE_LABELS = Unmeasured(
    reason="not measurable: no true box is of a label of its sample; check the class indices of "
    "the truth"
)
NO_MAPS = Unmeasured(
    reason="not measurable: the output holds no maps to try thresholds on or to calibrate by; "
    "annotate with --set output.store_maps=true"
)
NO_BEST_CLASS = Unmeasured(
    reason="not measurable: cam.ranks leaves out the best predicted class, so it has no box; "
    "annotate with --set cam.ranks=null"
)
NOT_SWEPT = Unmeasured(reason="not measured: left out on request")


@dataclass(frozen=True)
class Asked:
    """What a recipe was asked for.

    Attributes:
        labels: given labels get boxes.
        predicted: predicted classes get boxes.
        best_predicted: so does the first of them.
        maps: the maps are stored.
    """

    labels: bool
    predicted: bool
    best_predicted: bool
    maps: bool

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any]) -> Asked:
        """From the resolved settings in a footer.

        Raises:
            KeyError: they are of another make.
        """
        cam = settings["cam"]
        return cls(
            labels=cam["classes"] != "predicted",
            predicted=cam["classes"] != "label",
            best_predicted=cam["ranks"] is None or 1 in cam["ranks"],
            maps=settings["output"]["store_maps"],
        )

    @property
    def boxes(self) -> BoxesOf:
        """What all boxes of the output are of."""
        if not self.labels:
            return "predicted classes"
        return "given labels and predicted classes" if self.predicted else "given labels"

    @property
    def no_top1(self) -> Unmeasured | None:
        """Why Top-1 localisation cannot be measured; None where it can.

        A label's box is what its class would get as a prediction, so labels alone are enough.
        """
        return None if self.labels or self.best_predicted else NO_BEST_CLASS
