"""A classifier whose head is known: images in, feature map and logits out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from pipeline.config import ModelSettings
from pipeline.errors import RequestError
from pipeline.models.build import Network, build_network
from pipeline.models.preprocess import Preprocessing, resolve_preprocessing
from pipeline.models.probe import FeatureGrid, ProbedHead, probe
from pipeline.models.split import Split, split_network

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Scores:
    """What one batch of B images gives.

    Attributes:
        feature_map: (B, C, H, W) float32, the input of the head's pooling.
        logits: (B, K) float32, by the model's own head.
    """

    feature_map: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class Classifier:
    """A network as two functions, on one device.

    Attributes:
        head: the probed class weights, on the device.
        preprocessing: what ``scores`` expects of the images.
        weights_digest: SHA-256 over names, shapes and values of all weights.
    """

    module: nn.Module
    split: Split
    grid: FeatureGrid
    head: ProbedHead
    preprocessing: Preprocessing
    device: torch.device
    precision: Precision
    weights_digest: str

    @property
    def class_count(self) -> int:
        """K, the number of classes."""
        return len(self.head.bias)

    @torch.inference_mode()
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
        batch = _normalised(torch.from_numpy(images).to(self.device), self.preprocessing)
        with torch.autocast(
            self.device.type,
            dtype=getattr(torch, self.precision),
            enabled=self.precision != "float32",
        ):
            features = self.split.backbone(batch)
        # The head and the maps stay in float32: they cost little and decide the boxes.
        features = features.float()
        return Scores(self.grid.feature_map(features), self.split.head(features).float())


def load_classifier(
    settings: ModelSettings, device: torch.device, precision: Precision
) -> Classifier:
    """Build, load, cut and probe the configured classifier.

    Raises:
        RequestError: it cannot be built, or its head gives no class activation map.
    """
    network = build_network(settings)
    preprocessing = resolve_preprocessing(settings, network)
    split = split_network(network, settings.name)
    network.module.to(device)
    try:
        with torch.inference_mode():
            grid, head = probe(split, _probe_images(preprocessing, device), settings.name)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise RequestError(
            f"model.input_size: {settings.name} does not run at {preprocessing.height} x "
            f"{preprocessing.width}: {' '.join(str(error).split())[:200]}; leave input_size null, "
            f"or tell the constructor: model.kwargs={{img_size: ...}}"
        ) from error
    return Classifier(
        module=network.module,
        split=split,
        grid=grid,
        head=head,
        preprocessing=preprocessing,
        device=device,
        precision=precision,
        weights_digest=_weights_digest(network),
    )


def _normalised(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    mean = pixels.new_tensor(preprocessing.mean, dtype=torch.float32) * 255
    std = pixels.new_tensor(preprocessing.std, dtype=torch.float32) * 255
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)


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
