"""A classifier whose head is known: images in, feature map and logits out."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cambox.models.groups import ClassGroups
from cambox.models.heads import AffineHead, ClassifierHead, PooledHead, TailHead
from cambox.models.last_layer import inputs_of
from cambox.models.middle import MiddleLayer, recorded
from cambox.models.preprocessing import Preprocessing
from cambox.models.split import Split
from cambox.models.tail import TailPass, run_with_tail
from cambox.sources.load import fitted

if TYPE_CHECKING:
    from cambox.models.fixed import FixedPasses

Precision = Literal["float32", "bfloat16", "float16"]
Aspect = Literal["squashed", "kept", "padded"]

# Of red, green and blue, in 65536ths.
GREY_SHARES = (19595, 38470, 7471)
# More batches at once than this would wait for Python; beyond it each gets several threads.
MOST_AT_ONCE = 8


@dataclass(frozen=True)
class Scores:
    """What one batch of B images gives.

    Attributes:
        feature_map: (B, C, H, W) float32, what the head starts from.
        logits: (B, K) float32, by the model's own head.
        tail: the graph of the network's last part, for a head that needs it.
        middle: the features (B, C, H, W) of each middle layer, where any are asked for.
        last_input: (B, D) what the last layer makes the logits of, where it is asked for.
    """

    feature_map: torch.Tensor
    logits: torch.Tensor
    tail: TailPass | None = None
    middle: tuple[torch.Tensor, ...] = ()
    last_input: torch.Tensor | None = None

    def tensors(self) -> list[torch.Tensor]:
        """All but the tail, the image being the first dimension of each."""
        last = [] if self.last_input is None else [self.last_input]
        return [self.feature_map, self.logits, *self.middle, *last]

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> Scores:
        """Others, in the order of ``tensors``."""
        feature_map, logits, *rest = tensors
        last = None if self.last_input is None else rest.pop()
        return Scores(feature_map, logits, self.tail, tuple(rest), last)


@dataclass(frozen=True)
class Classifier:
    """A network whose head is known, on one device.

    Attributes:
        split: the network as features and a head; None for a ``TailHead``, with which the whole
            network runs at once.
        head: what was found out about the head, on the device.
        class_count: of the user's classes: K, or how many groups there are.
        preprocessing: what ``scores`` expects of the images.
        weights_digest: SHA-256 over names, shapes and values of all weights.
        middle: the layers whose features come with the scores.
        class_size: (height, width) that the logits come from; None: from the images as they are.
        groups: the user's classes, where they are not the network's own.
        aspect: how images of another shape than the preprocessing's go in; ``kept``: as they are,
            their longer side as long; ``padded``: the same, in the middle of the preprocessing's.
        last_layer: the name of the module whose input comes with the scores; None: no such.
        offset: how many cells further right and down than it lies a cell looks.
        quick: what ``scores`` runs, where it was prepared for batches of one size (``ways``).
    """

    module: nn.Module
    split: Split | None
    head: ClassifierHead
    class_count: int
    preprocessing: Preprocessing
    device: torch.device
    precision: Precision
    weights_digest: str
    middle: tuple[MiddleLayer, ...] = ()
    class_size: tuple[int, int] | None = None
    groups: ClassGroups | None = None
    aspect: Aspect = "squashed"
    last_layer: str | None = None
    offset: float = 0.0
    quick: FixedPasses | None = None

    def scores(self, images: np.ndarray) -> Scores:
        """Run the network once, without gradients.

        Args:
            images: (B, height, width, 3) uint8 RGB of the preprocessing's size.

        Raises:
            ValueError: the images are of another size or type.
        """
        expected = (self.preprocessing.height, self.preprocessing.width, 3)
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 images of shape (B, {', '.join(map(str, expected))}), "
                f"got {images.dtype} {images.shape}"
            )
        pixels = torch.from_numpy(images)
        if self.device.type == "cuda":
            # Nobody waits for the copy; of a buffer's images nothing is to pin.
            pixels = pixels.pin_memory()
        if self.quick is not None and len(pixels) <= self.quick.most:
            return self.quick(pixels)
        with torch.inference_mode():
            return self.scores_of(pixels.to(self.device, non_blocking=True))

    def scores_of(self, pixels: torch.Tensor) -> Scores:
        """The same of images (B, height, width, 3) uint8 on the device, one operation at a time.

        Without a tail nothing in it waits for the device or copies to it, so that a CUDA graph can
        record it; and it can be traced.
        """
        with inputs_of(self.module, self.last_layer) as last_inputs:
            with recorded(self.module, self.middle) as middle:
                if isinstance(self.head, TailHead):
                    scores = self._scores_with_tail(pixels, self.head)
                else:
                    scores = self._scores_of_split(pixels, self.head)
            if self.class_size is not None:
                scores = replace(scores, logits=self._logits_at(pixels, self.class_size))
        # Of several passes the last is that of the logits.
        last_input = last_inputs[-1] if last_inputs else None
        return replace(scores, middle=tuple(middle), last_input=last_input)

    def of_groups(self, groups: ClassGroups) -> Classifier:
        """The classifier, whose user has other classes than it was trained for."""
        return replace(self, groups=groups, class_count=len(groups.names))

    @property
    def cell(self) -> int:
        """Pixels of the input for each cell of the feature map, of a convolutional network.

        A power of two; an input of another size, such as 300 for 10 cells of 32, is padded by it.
        """
        return int(2 ** round(math.log2(self.preprocessing.height / self.head.grid.height)))

    def at(self, height: int, width: int) -> Classifier:
        """The classifier, for images of another size; of a network that takes any.

        What the classes are read from is of the same shape.
        """
        class_size = self.class_size
        if class_size is not None:
            class_size = fitted((height, width), max(class_size), self.cell)
        size = replace(self.preprocessing, height=height, width=width)
        return replace(self, preprocessing=size, class_size=class_size, quick=None)

    def cell_logits(self, feature_map: torch.Tensor) -> torch.Tensor:
        """What the head says of an image that looks like one cell all over.

        Args:
            feature_map: (B, C, H, W).

        Returns:
            (B, H, W, K).
        """
        assert not isinstance(self.head, TailHead)
        batch, channels, height, width = feature_map.shape
        cells = feature_map.permute(0, 2, 3, 1).reshape(-1, channels)
        return self.head.logits(cells).view(batch, height, width, -1)

    def try_out(self) -> Scores:
        """What it makes of a black image."""
        size = self.preprocessing
        return self.scores(np.zeros((1, size.height, size.width, 3), dtype=np.uint8))

    def _logits_at(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        batch = F.interpolate(
            self._normalised(pixels),
            size=size,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        with self._autocast():
            logits: torch.Tensor = self.module(batch)
        return logits.float()

    def _scores_of_split(self, pixels: torch.Tensor, head: AffineHead | PooledHead) -> Scores:
        batch = self._normalised(pixels)
        assert self.split is not None
        with self._autocast():
            features = self.split.backbone(batch)
        # The head and the maps stay in float32: they cost little and decide the boxes.
        features = features.float()
        logits = self.split.head(features).float()
        return Scores(head.grid.feature_map(features), logits)

    def _scores_with_tail(self, pixels: torch.Tensor, head: TailHead) -> Scores:
        # Tensors made in inference mode could not enter the graph of the tail.
        with torch.inference_mode(False), torch.no_grad():
            batch = self._normalised(pixels)
            with self._autocast():
                run = run_with_tail(self.module, head, batch)
            feature_map = head.grid.feature_map(run.features.detach())
            return Scores(feature_map, run.logits.detach().float(), run)

    def image_buffer(self, count: int) -> np.ndarray:
        """Memory for (count, height, width, 3) uint8 images, from where a GPU reads by itself."""
        shape = (count, self.preprocessing.height, self.preprocessing.width, 3)
        on_gpu = self.device.type == "cuda"
        buffer: np.ndarray = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu).numpy()
        return buffer

    def normalised(self, images: np.ndarray) -> torch.Tensor:
        """Images (B, height, width, 3) uint8 as the network takes them, on its device.

        Returns:
            (B, channels of the preprocessing, height, width) float32.
        """
        return self._normalised(torch.from_numpy(images).to(self.device))

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        grey, mean, std = self._constants
        if self.preprocessing.channels == 1:
            # As Pillow turns RGB to grey (ITU-R 601), to the same integer.
            pixels = (pixels.int().mul_(grey).sum(dim=3, keepdim=True) + (1 << 15)) >> 16
        lines = pixels.flatten(2).float().sub_(mean).div_(std)
        return lines.view(pixels.shape).permute(0, 3, 1, 2)

    @cached_property
    def _constants(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The shares of the colours in grey, and mean and deviation, on the device."""
        width = self.preprocessing.width
        with torch.inference_mode(False):
            grey = torch.tensor(GREY_SHARES, dtype=torch.int32, device=self.device)
            # Of a whole line at once: along three channels alone each pixel would be a loop of its
            # own.
            mean, std = (
                (torch.tensor(values, dtype=torch.float32, device=self.device) * 255).repeat(width)
                for values in (self.preprocessing.mean, self.preprocessing.std)
            )
        return grey, mean, std

    def on_its_stream(self) -> AbstractContextManager[None]:
        """Where a GPU computes what this copy runs, and what is made of its scores, in order."""
        return nullcontext() if self.quick is None else self.quick.on_its_stream()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type,
            dtype=getattr(torch, self.precision),
            enabled=self.precision != "float32",
        )

    def most_at_once(self, threads: int) -> int:
        """How many batches to run at once, each by a copy, with so many threads.

        On a CPU two threads of a small network wait for each other after each layer; two batches
        on one thread each do not. A GPU computes one batch while the boxes of another are found.
        """
        return min(threads, MOST_AT_ONCE) if self.device.type == "cpu" else 2

    def copies(self, count: int) -> list[Classifier]:
        """This classifier and others like it, ``count`` in all, that can run at the same time.

        Hooks belong to a module, so each has modules of its own; the weights are shared.
        """
        shared = [*self.module.parameters(), *self.module.buffers()]
        if isinstance(self.head, AffineHead):
            shared += [self.head.weight, self.head.bias]
        # What deepcopy finds there it takes as copied already.
        known = {id(tensor): tensor for tensor in shared}
        return [self, *(copy.deepcopy(self, dict(known)) for _ in range(count - 1))]
