"""The settings of the method: which classes get maps, how maps become boxes and boxes scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
# Two images of the longest side, which a network is probed with, have six gigabytes.
Side = Annotated[int, Field(ge=1, le=16_384)]
ShiftMode = Literal["global_min", "adaptive_min", "global_multiple", "adaptive_multiple"]


class Section(BaseModel):
    """A part of the configuration: immutable, with no room for unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    # Settings that came later, and their defaults: left out of recipes that do not use them, so
    # that those stay what they were.
    came_later: ClassVar[Mapping[str, Any]] = {}

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in dump(self).items()
            if name not in self.came_later or value != self.came_later[name]
        }


class PoolingSettings(Section):
    """How the features become the pooled vector that the class scores come from."""

    kind: Literal["average", "thresholded"] = "average"
    """thresholded (TAP) is for classifiers trained with it: it changes the scores"""
    threshold: Fraction = 0.1
    """TAP averages the cells above this share of a channel's maximum"""


class RefineSettings(Section):
    """Spreading maps along what looks alike in the middle layers of the same forward pass."""

    steps: Annotated[int, Field(ge=0, le=10)] = 0
    """how often a map is spread; 0: not at all; 2 is best at an input of 448"""
    power: Annotated[float, Field(gt=0)] = 2.0
    """of the likeness; more makes cells that are only somewhat alike count less"""
    feature_power: Annotated[float, Field(gt=0, le=1)] = 0.5
    """of the features that are compared; below 1 strong channels count for less"""
    layers: PositiveInt = 3
    """the last middle layers to compare cells by"""
    channels: PositiveInt | None = 128
    """of each of them to compare by, evenly taken; null: all, which costs more"""
    cells: Side | None = None
    """longer side of the refined map; null: one cell for 16 pixels of input"""


class AgreementSettings(Section):
    """The probability that a box of a zoomed image is right, from how far the looks agree on it.

    box_score = 1 / (1 + exp(-(intercept + sum of weight x trait))). The defaults were found on 160
    photographs of everyday scenes with two networks, see docs/scenes.md.
    """

    intercept: float = 0.9850
    """the sum where all traits are 0"""
    log_area: float = -0.7482
    """log of the box's share of the image, 0.0001 at least"""
    log_area_squared: float = -0.0824
    """so that middling sizes may be the best"""
    votes: float = 1.9327
    """log of the mean over looks of the squared IoU with the look's box that fits best"""
    likely_votes: float = 0.8792
    """the same, of each look's boxes those where the class is likelier counting more"""
    cut: float = 0.0316
    """1 for a box that ends at an edge of its window within the image"""
    best_posterior: float = 0.0273
    """log of the class's probability in the image's best box"""
    logit_contrast: float = 0.0500
    """the mean of the class's logit in the box's cells less that around it"""
    posterior_contrast: float = -0.0423
    """the same of the log of its probability in each cell"""
    ahead: float = 0.1347
    """its logit in the box less that of the best other class of the image, -5 to 5"""
    narrowed: float = -0.0406
    """log of the class's probability in the box less that in the box 1.5 times as large"""


class ZoomSettings(Section):
    """Looks at an image in several sizes, for scenes: the boxes that they agree on are written."""

    sides: Annotated[list[Side], Field(min_length=1)] = [224, 448, 896, 1280]
    """longer sides of the inputs, in pixels; the image keeps its shape to the nearest cell"""
    mirrored: list[Side] = [224, 448]
    """sides at which the mirror image is looked at, too"""
    windows: PositiveInt = 8
    """of each class to look into, the likeliest of all sizes"""
    agreement: AgreementSettings = AgreementSettings()
    """what makes box_score"""


class CamSettings(Section):
    """Which classes get a map, and how the map is scored."""

    came_later = {"zoom": None, "background": None, "offset": 0.0}

    classes: Literal["predicted", "label", "both", "none"] = "predicted"
    """the model's top-k | the sample's own classes | both | none: no maps and no boxes, only what
    the model predicts and, with output.store_features, the features that it is read from"""
    top_k: PositiveInt = 5
    """predicted classes per image"""
    ranks: list[PositiveInt] | None = None
    """only these ranks get boxes, such as [3]; null: all top_k"""
    min_probability: Fraction = 0.0
    """predicted classes below get no boxes"""
    background: str | None = None
    """the class of images without any object: it gets no boxes, and predicted classes that are less
    likely than it get none either; null: there is no such class"""
    pooling: PoolingSettings = PoolingSettings()
    """of the features"""
    truncate: bool = False
    """NWC: class weights below zero count as zero"""
    refine: RefineSettings = RefineSettings()
    """of the maps"""
    centre: Annotated[float, Field(gt=0)] | None = None
    """photographs are aimed at their objects: maps are weighed by a Gaussian around the middle of
    this spread, a share of the side (0.45 is best on ImageNet); null: not"""
    offset: Annotated[float, Field(ge=-1, le=1)] | Literal["auto"] = 0.0
    """how many cells further right and down than it lies a cell of the map looks; auto: measured
    when the network is loaded. ResNets look up to half a cell to the left and up, and boxes of
    plain maps gain where that is counted in: docs/refinement.md"""
    shift: float | dict[ShiftMode, float] = 0.0
    """added to the class weights; or a named mode, {global_min: 0.0}"""
    nonlinear_head: Literal["auto", "frozen", "derivative"] = "auto"
    """for heads with a norm or activation after the pooling: frozen holds those at each image's
    values; derivative; auto: frozen where that leaves the head affine"""
    zoom: ZoomSettings | None = None
    """for photographs with several and small objects; null: one look at the whole, squashed"""

    @property
    def uses_labels(self) -> bool:
        """Whether the sample's own classes get boxes."""
        return self.classes in ("label", "both")

    @model_validator(mode="after")
    def _ranks_within_top_k(self) -> CamSettings:
        if self.ranks is not None and (not self.ranks or max(self.ranks) > self.top_k):
            raise ValueError(
                f"ranks {self.ranks} must name ranks from 1 to top_k={self.top_k}; raise top_k"
            )
        if isinstance(self.shift, dict) and len(self.shift) != 1:
            raise ValueError("shift takes one mode, such as {global_min: 0.0}")
        return self


class CalibrationSettings(Section):
    """A probability of being right from what is known of a box; `cambox tune` finds the numbers.

    box_score = 1 / (1 + exp(-(intercept + sum of weight x trait))). The numbers hold for the
    network, the settings and the kind of images that they were found with.
    """

    intercept: float
    """the sum where all traits are 0"""
    class_logit: float = 0.0
    """log(p / (1 - p)) of the class's probability"""
    class_logit_squared: float = 0.0
    """bends the above where the network is too sure of itself"""
    given: float = 0.0
    """1 for a class given with the sample, else 0"""
    contrast: float = 0.0
    """mean of the map inside the box less that outside"""
    area: float = 0.0
    """of the box, as a share of the image"""
    area_squared: float = 0.0
    """so that middling sizes may be the best"""
    off_centre: float = 0.0
    """0 for a box in the middle, 1 for one in a corner"""
    later: float = 0.0
    """1 for all boxes of a class but the first, else 0"""


class BoxSettings(Section):
    """How a map becomes boxes."""

    came_later = {"split": None}

    threshold: Fraction = 0.35
    """tau: share of the percentile's value"""
    percentile: Annotated[float, Field(ge=0, le=100)] = 90.0
    """the standard tau refers to (PaS); 100 is the maximum"""
    max_boxes: PositiveInt = 3
    """per class and image, the largest first"""
    min_area: Fraction = 0.01
    """of the image; smaller components are dropped"""
    split: Annotated[float, Field(gt=0, le=0.5)] | None = None
    """for objects of a class side by side: a component that falls into parts above a higher
    threshold, each with this share of its cells at least, is divided between them; null: it stays
    whole. 0.15 loses next to nothing where it was whole"""
    resolution: Side | None = None
    """longer side of the upsampled map; null: the input size"""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """how the map is upsampled"""
    calibration: CalibrationSettings | None = None
    """makes box_score the probability that a box is right (IoU 0.5 with a true box of its class);
    null: the mean of the map inside the box, which is none. From cambox tune"""
    suppress_overlap: Fraction | None = None
    """a class's box that overlaps a better class's by a larger IoU is dropped: two breeds on one
    dog; null: each class keeps its boxes"""
    min_score: Fraction = 0.0
    """boxes with a lower box_score are dropped: fewer and surer ones. cambox evaluate shows what
    each value would keep"""
