"""One strict configuration: every knob with its default and its meaning.

A configuration is a YAML file with the sections below; unknown keys are errors, so that a
misspelt key can never silently mean its default.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cambox.config_cam import BoxSettings, CamSettings, PositiveInt, Section, Side

Triple = tuple[float, float, float]
HF_HUB, LOCAL_DIR = "hf-hub", "local-dir"


def source_of(name: str) -> str | None:
    """Where timm finds a model of such a name, in a repository or a folder; None: in its list."""
    source = name.partition(":")[0].lower().replace("_", "-")
    return source if ":" in name and source in (HF_HUB, LOCAL_DIR) else None


class InputSettings(Section):
    """Where the shards are and what a sample holds."""

    shards: list[str] = Field(default=[])
    """paths, globs, braces, or URLs (s3://, gs://, http://); must be given, or images"""
    images: list[str] = Field(default=[])
    """instead of shards: folders of pictures (sub-folders are classes), globs, or CSV or Parquet
    tables with the columns image and, where classes are given, class_index"""
    chunks: PositiveInt = 32
    """so many parts, at most, of what each entry of images names play the part of shards"""
    labels: str = "cls"
    """member that holds the sample's classes: cls, or json:<field>"""
    class_names: str | tuple[str, ...] | None = None
    """the names of the classes that labels count: a file with one a line, or a list; null:
    class_names.txt in the shards' folder, where pack leaves it, or the class folders of images"""
    image: str | None = None
    """the member that is the image, such as rgb.png where depth.png is beside it; null: the one
    image of the sample"""
    several_images: Literal["refuse", "first", "name"] = "first"
    """of several images under one key (22.00.png and 22.05.png): refuse the shard; first: take one,
    warn, and say in the row what is left out; name: all, each a sample named as its file"""
    fingerprint: Literal["store", "content"] = "store"
    """what tells a changed shard: the store's ETag or time, or (slow) its bytes"""
    decoder: Literal["auto", "cpu", "gpu"] = "auto"
    """gpu: an NVIDIA GPU decodes the usual JPEGs and makes them smaller, at a thirtieth of the CPU
    time; its pixels differ from the CPU's by 0.2 of 255 on average, so it is part of the recipe.
    auto: cpu, whose rows are the same on every machine"""
    max_pixels: PositiveInt = 100_000_000
    """larger images are not decoded (status too_large)"""
    max_sample_bytes: PositiveInt = 1 << 30
    """a shard with a sample whose files are larger together is given up"""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """passed to fsspec, such as {endpoint_url: ...}"""

    @field_validator("shards", "images", mode="before")
    @classmethod
    def _one_pattern_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("image")
    @classmethod
    def _as_suffixes_are(cls, value: str | None) -> str | None:
        return value and value.removeprefix(".").lower()

    @field_validator("labels")
    @classmethod
    def _known_source(cls, value: str) -> str:
        if value != "cls" and not (value.startswith("json:") and len(value) > len("json:")):
            raise ValueError(f"must be cls or json:<field>, got {value!r}")
        return value

    @model_validator(mode="after")
    def _nothing_without_a_meaning(self) -> InputSettings:
        if bool(self.shards) == bool(self.images):
            raise ValueError(
                "shards and images exclude each other; remove one"
                if self.shards
                else "shards is missing, or images for pictures in a folder; set it in the file "
                "or with --set input.shards=..."
            )
        if self.image is not None and self.several_images != "first":
            raise ValueError("several_images has no meaning beside image; leave one out")
        if self.images and self.labels != "cls":
            raise ValueError(
                "labels has no meaning beside images, whose classes are their folders or a table's "
                "column class_index; leave it out"
            )
        return self


class ModelSettings(Section):
    """The classifier."""

    name: str
    """a timm model, or torchvision/<name>; also hf-hub:<owner>/<name> and local-dir:<folder> of
    timm, with the weights that are there unless a checkpoint is given"""
    checkpoint: str | None = None
    """safetensors, or a .pth of tensors and plain data, as it is or as a training script keeps it;
    on the command line it takes the place of pretrained: true"""
    averaged: bool = False
    """true: of a checkpoint that holds both, the moving average (EMA) of the weights"""
    pretrained: bool = False
    """true: the library's own weights, from its hub"""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """passed to the model's constructor; num_classes and in_chans (3, or 1 for grey images) are
    read off a checkpoint where they are not given"""
    input_size: Side | tuple[Side, Side] | None = None
    """side, or [height, width], in pixels; null: the model's own"""
    keep_aspect: bool = False
    """true: an image keeps its shape, input_size being its longer side, to the nearest whole cell
    of the feature map; a network that takes one shape only gets the rest padded with the mean.
    false: it is squashed to input_size"""
    class_input_size: Side | tuple[Side, Side] | None = None
    """the classes come from a second pass at this size, such as the one the network was trained at
    where input_size is larger; null: from the same pass"""
    mean: Triple | None = None
    """per channel, for values in 0..1"""
    std: Triple | None = None
    """per channel, for values in 0..1"""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the backbone; auto: float32 on a CPU, bfloat16 on a GPU"""
    compile: Literal["auto", "eager", "graph", "inductor"] = "auto"
    """the forward pass as one operation, which does not wait for Python. eager: as many as it has.
    graph: on a GPU, the same kernels as a CUDA graph. inductor: compiled by PyTorch, which takes a
    minute and a compiler, and moves boxes as little as the precision does; files say so
    (cambox.forward). auto: eager on a CPU and for fewer than 10,000 images a worker; else graph, or
    inductor where the run is long enough and it is quicker. What gives other scores is taken
    back"""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    """sigmoid for a multi-label classifier"""
    class_names: str | None = None
    """a file with one name a line; null: those of the shards (input.class_names) where there are
    as many, or ImageNet's where there are 1000"""
    class_groups: str | None = None
    """a YAML file of your classes as groups of the model's, such as dog: [151-268]; labels, rows
    and exports count the groups in the file's order; null: the model's own classes"""

    @property
    def has_weights(self) -> bool:
        """Whether any weights are loaded; without them they are random."""
        return self.from_library or self.checkpoint is not None

    @property
    def source(self) -> str | None:
        """See ``source_of``."""
        return source_of(self.name)

    @property
    def from_library(self) -> bool:
        """Whether the library loads the weights."""
        return self.pretrained or (self.checkpoint is None and self.source is not None)

    @property
    def from_hub(self) -> bool:
        """Whether timm asks its hub, for weights or for what a repository says of them."""
        of_timm = not self.name.startswith("torchvision/")
        return self.source == HF_HUB or (self.pretrained and of_timm and self.source is None)

    @field_validator("kwargs")
    @classmethod
    def _no_other_checkpoint(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "checkpoint_path" in value:
            # timm unpickles what it names, and the digest would not cover it.
            raise ValueError("checkpoint_path is not allowed; name the file in model.checkpoint")
        try:
            # They are part of the recipe, which is JSON.
            json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"takes numbers, texts, lists and mappings only: {error}") from error
        return value

    @field_validator("std")
    @classmethod
    def _positive(cls, value: Triple | None) -> Triple | None:
        if value is not None and min(value) <= 0:
            raise ValueError("must be above zero")
        return value

    @model_validator(mode="after")
    def _one_longer_side(self) -> ModelSettings:
        if self.keep_aspect and isinstance(self.input_size, tuple):
            raise ValueError("input_size is the longer side with keep_aspect: give one number")
        return self

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> ModelSettings:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("checkpoint and pretrained: true exclude each other; remove one")
        return self


class OutputSettings(Section):
    """Where the annotations go."""

    uri: str
    """a folder; each recipe writes into a sub-folder of its own"""
    store_maps: bool = False
    """keep the low-resolution maps, as 8 bits"""
    store_features: bool = False
    """keep what the network's last layer sees of each image, one vector of 16-bit numbers, as
    cambox probe does; the last layer must be linear"""
    storage_options: dict[str, Any] = Field(default_factory=dict)
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
    """ray: auto: workers share a GPU, one for each two CPUs beside it, 8 at most; a whole one where
    engine.workers is given; 0 where the cluster has none"""
    cpus_per_worker: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    """threads of a worker, no more than the machine has CPUs; auto: its share of them"""
    max_attempts: PositiveInt = 3
    """a shard that failed so often is left out and reported"""
    stall_seconds: Annotated[float, Field(gt=0)] = 600.0
    """ray: a worker that neither reads nor annotates for so long is replaced"""
    if_rows_differ: Literal["stop", "redo", "mix"] = "stop"
    """what to do where other versions of libraries made the published files of the recipe, and the
    ones here make other rows of the built-in pictures. stop: say so and end; redo: make those files
    anew; mix: say so and go on"""
    start_seconds: Annotated[float, Field(gt=0)] = 900.0
    """ray: a worker that takes longer to load its model, once it has its place, is replaced"""
    wait_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """ray: a run ends when for so long not one worker found a place in the cluster, which may be
    taken by others, or grow; the same command goes on later"""


class Config(Section):
    """A whole run."""

    input: InputSettings
    model: ModelSettings
    cam: CamSettings = CamSettings()
    boxes: BoxSettings = BoxSettings()
    output: OutputSettings
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _nothing_without_a_meaning(self) -> Config:
        if self.cam.refine.steps and self.cam.offset:
            raise ValueError(
                "cam.offset is of the cells of the feature map, and cam.refine puts their scores "
                "on the finer cells of middle layers; set cam.offset to 0, or cam.refine.steps"
            )
        if self.cam.zoom is None:
            return self
        if self.input.decoder == "gpu":
            raise ValueError(
                "input.decoder: gpu resizes images as it decodes them, and cam.zoom wants them at "
                "several sizes; set it to cpu, or cam.zoom to null"
            )
        for section, names in _NOT_ZOOMED.items():
            settings = getattr(self, section)
            for name in names:
                if getattr(settings, name) != type(settings).model_fields[name].default:
                    raise ValueError(
                        f"{section}.{name} has no meaning beside cam.zoom, whose looks have sizes, "
                        f"maps and a score of their own; leave it out, or set cam.zoom to null"
                    )
        return self


# Of one look at the whole, squashed image.
_NOT_ZOOMED = {
    "model": ("input_size", "keep_aspect", "class_input_size"),
    "cam": ("pooling", "truncate", "refine", "centre", "offset", "shift"),
    "boxes": ("threshold", "percentile", "split", "resolution", "interpolation", "calibration"),
    "output": ("store_maps", "store_features"),
}
