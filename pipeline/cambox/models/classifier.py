"""A classifier whose head is known: images in, feature map and logits out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cambox.config import ModelSettings
from cambox.errors import RequestError
from cambox.models.build import Network, build_network
from cambox.models.heads import AffineHead, ClassifierHead, HeadKind, PooledHead, TailHead
from cambox.models.middle import MiddleLayer, middle_layers, recorded
from cambox.models.prepare import fold_norms, pack_convolutions
from cambox.models.preprocess import Preprocessing, resolve_preprocessing
from cambox.models.probe import probe, require_same, require_useful
from cambox.models.resize import fit_to_input_size
from cambox.models.split import NotPooledError, Split, split_network
from cambox.models.tail import TailPass, find_tail, run_with_tail

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Scores:
    """What one batch of B images gives.

    Attributes:
        feature_map: (B, C, H, W) float32, what the head starts from.
        logits: (B, K) float32, by the model's own head.
        tail: the graph of the network's last part, for a head that needs it.
        middle: the features (B, C, H, W) of each middle layer, where any are asked for.
    """

    feature_map: torch.Tensor
    logits: torch.Tensor
    tail: TailPass | None = None
    middle: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Classifier:
    """A network whose head is known, on one device.

    Attributes:
        split: the network as features and a head; None for a ``TailHead``, with which the whole
            network runs at once.
        head: what was found out about the head, on the device.
        class_count: K, the number of classes.
        preprocessing: what ``scores`` expects of the images.
        weights_digest: SHA-256 over names, shapes and values of all weights.
        middle: the layers whose features come with the scores.
        class_size: (height, width) that the logits come from; None: from the images as they are.
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
        with recorded(self.module, self.middle) as middle:
            if isinstance(self.head, TailHead):
                scores = self._scores_with_tail(images, self.head)
            else:
                scores = self._scores_of_split(images, self.head)
        if self.class_size is not None:
            scores = replace(scores, logits=self._logits_at(images, self.class_size))
        return replace(scores, middle=tuple(middle))

    @torch.inference_mode()
    def _logits_at(self, images: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        batch = F.interpolate(
            self.normalised(images), size=size, mode="bilinear", align_corners=False, antialias=True
        )
        with self._autocast():
            logits: torch.Tensor = self.module(batch)
        return logits.float()

    def _scores_of_split(self, images: np.ndarray, head: AffineHead | PooledHead) -> Scores:
        with torch.inference_mode():
            batch = self.normalised(images)
            assert self.split is not None
            with self._autocast():
                features = self.split.backbone(batch)
            # The head and the maps stay in float32: they cost little and decide the boxes.
            features = features.float()
            logits = self.split.head(features).float()
            return Scores(head.grid.feature_map(features), logits)

    def _scores_with_tail(self, images: np.ndarray, head: TailHead) -> Scores:
        # Tensors made in inference mode could not enter the graph of the tail.
        with torch.inference_mode(False), torch.no_grad():
            batch = self.normalised(images)
            with self._autocast():
                run = run_with_tail(self.module, head.cut, batch)
            feature_map = head.grid.feature_map(run.features.detach())
            return Scores(feature_map, run.logits.detach().float(), run)

    def image_buffer(self, count: int) -> np.ndarray:
        """Memory for (count, height, width, 3) uint8 images, from where a GPU reads by itself."""
        shape = (count, self.preprocessing.height, self.preprocessing.width, 3)
        on_gpu = self.device.type == "cuda"
        buffer: np.ndarray = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu).numpy()
        return buffer

    def normalised(self, images: np.ndarray) -> torch.Tensor:
        """Images (B, height, width, 3) uint8 as the network takes them, on its device."""
        pixels = torch.from_numpy(images)
        if self.device.type == "cuda":
            # Nobody waits for the copy; of a buffer's images nothing is to pin.
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        return _normalised(pixels, self.preprocessing)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type,
            dtype=getattr(torch, self.precision),
            enabled=self.precision != "float32",
        )


def load_classifier(
    settings: ModelSettings,
    device: torch.device,
    precision: Precision,
    nonlinear_head: Literal["auto", "frozen", "derivative"] = "auto",
    kind: HeadKind | None = None,
) -> Classifier:
    """Build, load, cut and probe the configured classifier.

    Args:
        kind: of its head, where another process has found it already.

    Raises:
        RequestError: it cannot be built, or its head gives no class activation map.
    """
    network = build_network(settings)
    return classifier_of(network, settings, device, precision, nonlinear_head, kind)


def classifier_of(
    network: Network,
    settings: ModelSettings,
    device: torch.device,
    precision: Precision,
    nonlinear_head: Literal["auto", "frozen", "derivative"] = "auto",
    kind: HeadKind | None = None,
) -> Classifier:
    """Cut and probe a network that is built already.

    Raises:
        RequestError: its head gives no class activation map.
    """
    if getattr(network.module, "num_classes", None) == 0:
        raise RequestError(
            f"model.kwargs: {settings.name} has no classifier (num_classes is 0); leave "
            f"num_classes out, or set that of the checkpoint"
        )
    # Before the weights are resampled to another size, which rounds by the machine.
    digest = _weights_digest(network)
    preprocessing = resolve_preprocessing(settings, network)
    if settings.input_size is not None:
        fit_to_input_size(network, preprocessing.height, preprocessing.width, settings.name)
    network.module.to(device)
    images = _probe_images(preprocessing, device)
    try:
        with torch.inference_mode():
            logits = network.module(images)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise RequestError(
            f"model.input_size: {settings.name} does not run at {preprocessing.height} x "
            f"{preprocessing.width}: {' '.join(str(error).split())[:200]}; leave input_size null, "
            f"or tell the constructor: model.kwargs={{img_size: ...}}"
        ) from error
    require_useful(logits, settings.name)
    fold_norms(network.module, images, logits)
    split, head = _head_of(network, images, logits, settings.name, nonlinear_head, kind)
    if logits.shape[1] == 1 and settings.activation == "softmax":
        raise RequestError(
            f"model.activation: {settings.name} gives one number an image, of which softmax is "
            f"always 1; set sigmoid for a single class"
        )
    if device.type == "cpu":
        # Not before the head is known, which reads a convolution and its activation one by one.
        pack_convolutions(network.module, images, logits)
    return Classifier(
        module=network.module,
        split=split,
        head=head,
        class_count=logits.shape[1],
        preprocessing=preprocessing,
        device=device,
        precision=precision,
        weights_digest=digest,
    )


def with_middle_layers(classifier: Classifier, count: int) -> Classifier:
    """The classifier, whose scores then come with the features of its last middle layers.

    Args:
        count: the most layers to take, see ``middle_layers``.

    Raises:
        RequestError: the network has none.
    """
    size = classifier.preprocessing.height, classifier.preprocessing.width
    blank = np.zeros((1, *size, 3), dtype=np.uint8)

    def last_feature_map() -> torch.Tensor:
        return classifier.scores(blank).feature_map

    layers = middle_layers(classifier.module, last_feature_map, size, classifier.head.grid.layout)
    return replace(classifier, middle=layers[-count:])


def with_class_size(classifier: Classifier, size: int | tuple[int, int], name: str) -> Classifier:
    """The classifier, whose logits then come from a second pass at another size.

    Args:
        name: of the model, for the error.

    Raises:
        RequestError: the network does not run at that size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    sized = replace(classifier, class_size=(height, width))
    own = classifier.preprocessing
    try:
        sized.scores(np.zeros((1, own.height, own.width, 3), dtype=np.uint8))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise RequestError(
            f"model.class_input_size: {name}, built for {own.height} x {own.width}, does not run "
            f"at {height} x {width}: {' '.join(str(error).split())[:200]}; leave it null"
        ) from error
    return sized


def _head_of(
    network: Network,
    images: torch.Tensor,
    logits: torch.Tensor,
    name: str,
    nonlinear_head: Literal["auto", "frozen", "derivative"],
    kind: HeadKind | None,
) -> tuple[Split | None, ClassifierHead]:
    """The network as features and a head over their average, or else with an affine tail."""
    try:
        split = split_network(network)
        with torch.inference_mode():
            require_same(split.head(split.backbone(images)), logits)
            return split, probe(split, images, name, nonlinear_head, kind)
    except NotPooledError as error:
        cut = find_tail(network.module, images)
        if cut is None:
            raise RequestError(
                f"model.name: {name} {error}, and none of its modules begins a part that is "
                f"affine in a grid of cells, so it gives no class activation map"
            ) from error
        return None, TailHead(cut)


def _normalised(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    # Of a whole line at once: along three channels alone each pixel would be a loop of its own.
    width = pixels.shape[2]
    mean = (pixels.new_tensor(preprocessing.mean, dtype=torch.float32) * 255).repeat(width)
    std = (pixels.new_tensor(preprocessing.std, dtype=torch.float32) * 255).repeat(width)
    lines = pixels.flatten(2).float().sub_(mean).div_(std)
    return lines.view(pixels.shape).permute(0, 3, 1, 2)


def _probe_images(preprocessing: Preprocessing, device: torch.device) -> torch.Tensor:
    """Two noise images of different grain, so that the features differ between cells."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(1, 3, preprocessing.height, preprocessing.width, generator=generator)
    coarse = torch.nn.functional.interpolate(
        torch.randn(1, 3, 7, 7, generator=generator), size=fine.shape[2:], mode="bilinear"
    )
    return torch.cat([fine, coarse]).to(device)


def _weights_digest(network: Network) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
