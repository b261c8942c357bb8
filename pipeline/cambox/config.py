"""One strict configuration: every knob with its default and its meaning.

A configuration is a YAML file with the sections below; unknown keys are errors, so that a
misspelt key can never silently mean its default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Triple = tuple[float, float, float]
ShiftMode = Literal["global_min", "adaptive_min", "global_multiple", "adaptive_multiple"]


class Section(BaseModel):
    """A part of the configuration: immutable, with no room for unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class InputSettings(Section):
    """Where the shards are and what a sample holds."""

    shards: Annotated[list[str], Field(min_length=1)]
    """paths, globs, braces, or URLs (s3://, gs://, http://)"""
    labels: str = "cls"
    """member that holds the sample's classes: cls, or json:<field>"""
    fingerprint: Literal["store", "content"] = "store"
    """what tells a changed shard: the store's ETag or time, or (slow) its bytes"""
    max_pixels: PositiveInt = 100_000_000
    """larger images are not decoded (status too_large)"""
    max_sample_bytes: PositiveInt = 1 << 30
    """a shard with a sample whose files are larger together is given up"""
    storage_options: dict[str, Any] = {}
    """passed to fsspec, such as {endpoint_url: ...}"""

    @field_validator("shards", mode="before")
    @classmethod
    def _one_pattern_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("labels")
    @classmethod
    def _known_source(cls, value: str) -> str:
        if value != "cls" and not (value.startswith("json:") and len(value) > len("json:")):
            raise ValueError(f"must be cls or json:<field>, got {value!r}")
        return value


class ModelSettings(Section):
    """The classifier."""

    name: str
    """a timm model, or torchvision/<name>"""
    checkpoint: str | None = None
    """safetensors, or a weights-only .pth"""
    pretrained: bool = False
    """true: the library's own weights, from its hub"""
    kwargs: dict[str, Any] = {}
    """passed to the model's constructor"""
    input_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """side, or [height, width], in pixels; null: the model's own"""
    class_input_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """the classes come from a second pass at this size, such as the one the network was trained at
    where input_size is larger; null: from the same pass"""
    mean: Triple | None = None
    """per channel, for values in 0..1"""
    std: Triple | None = None
    """per channel, for values in 0..1"""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the backbone; auto: float32 on a CPU, bfloat16 on a GPU"""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    """sigmoid for a multi-label classifier"""
    class_names: str | None = None
    """a file with one name a line; null: ImageNet's where there are 1000"""
    class_groups: str | None = None
    """a YAML file of your classes as groups of the model's, such as dog: [151-268]; labels, rows
    and exports count the groups in the file's order; null: the model's own classes"""

    @property
    def has_weights(self) -> bool:
        """Whether any weights are loaded; without them they are random."""
        return self.pretrained or self.checkpoint is not None

    @field_validator("std")
    @classmethod
    def _positive(cls, value: Triple | None) -> Triple | None:
        if value is not None and min(value) <= 0:
            raise ValueError("must be above zero")
        return value

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> ModelSettings:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("checkpoint and pretrained: true exclude each other; remove one")
        return self


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
    cells: PositiveInt | None = None
    """longer side of the refined map; null: one cell for 16 pixels of input"""


class CamSettings(Section):
    """Which classes get a map, and how the map is scored."""

    classes: Literal["predicted", "label", "both"] = "predicted"
    """the model's top-k | the sample's own classes | both"""
    top_k: PositiveInt = 5
    """predicted classes per image"""
    ranks: list[PositiveInt] | None = None
    """only these ranks get boxes, such as [3]; null: all top_k"""
    min_probability: Fraction = 0.0
    """predicted classes below get no boxes"""
    pooling: PoolingSettings = PoolingSettings()
    """of the features"""
    truncate: bool = False
    """NWC: class weights below zero count as zero"""
    refine: RefineSettings = RefineSettings()
    """of the maps"""
    centre: Annotated[float, Field(gt=0)] | None = None
    """photographs are aimed at their objects: maps are weighed by a Gaussian around the middle of
    this spread, a share of the side (0.45 is best on ImageNet); null: not"""
    shift: float | dict[ShiftMode, float] = 0.0
    """added to the class weights; or a named mode, {global_min: 0.0}"""
    nonlinear_head: Literal["auto", "frozen", "derivative"] = "auto"
    """for heads with a norm or activation after the pooling: frozen holds those at each image's
    values; derivative; auto: frozen where that leaves the head affine"""

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

    threshold: Fraction = 0.35
    """tau: share of the percentile's value"""
    percentile: Annotated[float, Field(ge=0, le=100)] = 90.0
    """the standard tau refers to (PaS); 100 is the maximum"""
    max_boxes: PositiveInt = 3
    """per class and image, the largest first"""
    min_area: Fraction = 0.01
    """of the image; smaller components are dropped"""
    resolution: PositiveInt | None = None
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


class OutputSettings(Section):
    """Where the annotations go."""

    uri: str
    """a folder; each recipe writes into a sub-folder of its own"""
    store_maps: bool = False
    """keep the low-resolution maps, as 8 bits"""
    storage_options: dict[str, Any] = {}
    """passed to fsspec, such as {endpoint_url: ...}"""


class EngineSettings(Section):
    """Where and how wide the work runs. Nothing here changes a row."""

    name: Literal["local", "ray"] = "local"
    """local: in this process; ray: on the cluster of RAY_ADDRESS"""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """images per forward pass, of which a CPU runs one on each thread (8 at most); auto: 4 on a
    CPU; on a GPU the fastest, timed once and remembered"""
    workers: PositiveInt | Literal["auto"] = "auto"
    """ray actors; auto: as many as the cluster holds (local: always one)"""
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """auto: 1 where the cluster has GPUs, else 0"""
    cpus_per_worker: PositiveInt | Literal["auto"] = "auto"
    """threads of a worker; auto: its share of the machine's CPUs"""
    max_attempts: PositiveInt = 3
    """a shard that failed so often is left out and reported"""
    stall_seconds: Annotated[float, Field(gt=0)] = 600.0
    """ray: a worker that neither reads nor annotates for so long is replaced"""


class Config(Section):
    """A whole run."""

    input: InputSettings
    model: ModelSettings
    cam: CamSettings = CamSettings()
    boxes: BoxSettings = BoxSettings()
    output: OutputSettings
    engine: EngineSettings = EngineSettings()
