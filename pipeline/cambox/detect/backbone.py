"""A classifier without its head, as the feature maps that a detector of torchvision reads."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from cambox.config import ModelSettings
from cambox.console import one_line
from cambox.detect import DetectorKind
from cambox.errors import RequestError
from cambox.models.build import TORCHVISION
from cambox.models.load import DOES_NOT_RUN
from cambox.models.split import NotPooledError, split_network

CHANNELS = 256
# A head of torchvision normalises channels in groups of so many.
GROUPS = 32
# Pixels a cell of the finest map: as in torchvision's own detectors.
FINEST = {DetectorKind.fcos: 8, DetectorKind.retinanet: 8, DetectorKind.fasterrcnn: 4}
# Not square, and of no size that a classifier is made for.
TRIED_HEIGHT, TRIED_WIDTH = 192, 256
# What torchvision's ResNets call their stages.
STAGES = ("layer1", "layer2", "layer3", "layer4")


class Backbone(nn.Module):
    """A network's maps, the finest first, through a pyramid where there are several.

    Attributes:
        out_channels: of every map.
        strides: pixels a cell, of each map.
    """

    def __init__(
        self, body: nn.Module, channels: list[int], strides: list[int], kind: DetectorKind
    ) -> None:
        super().__init__()
        self.body = body
        self.out_channels, self.strides = CHANNELS, list(strides)
        if len(channels) > 1:
            coarser, count = (
                (LastLevelMaxPool(), 1)
                if kind is DetectorKind.fasterrcnn
                else (LastLevelP6P7(CHANNELS, CHANNELS), 2)
            )
            self.neck = FeaturePyramidNetwork(channels, CHANNELS, extra_blocks=coarser)
            self.strides += [strides[-1] << step for step in range(1, count + 1)]
        elif channels[0] <= CHANNELS and channels[0] % GROUPS == 0:
            # With one map there is nothing to mix, and a small network's own channels do.
            self.neck, self.out_channels = nn.Identity(), channels[0]
        else:
            self.neck = _OfEach(nn.Conv2d(channels[0], CHANNELS, 1))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, h, w) normalised, to maps (B, out_channels, h / stride, w / stride) by name."""
        maps = OrderedDict((str(place), one) for place, one in enumerate(self.body(images)))
        mixed: dict[str, torch.Tensor] = self.neck(maps)
        return mixed

    def train(self, mode: bool = True) -> Backbone:
        """Norms of the network keep their statistics: batches of a detector are small."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def make_backbone(module: nn.Module, settings: ModelSettings, kind: DetectorKind) -> Backbone:
    """The backbone of a classifier's network, which it takes over and trains.

    Args:
        module: as ``build_network`` gives it.
        settings: that it was built from.

    Raises:
        RequestError: it gives no feature maps, or not of pictures of any shape.
    """
    module.requires_grad_(True)
    try:
        body = (
            _maps_of_torchvision(module)
            if settings.name.startswith(TORCHVISION)
            else _MapsOfTimm(module)
        )
        with torch.inference_mode():
            maps = body(torch.zeros(1, 3, TRIED_HEIGHT, TRIED_WIDTH))
    except (*DOES_NOT_RUN, NotPooledError, AttributeError) as error:
        raise RequestError(
            f"--backbone: {settings.name} gives no feature maps of pictures of any shape "
            f"({one_line(error, 150)}); take a convolutional network of 3 channels"
        ) from error
    # Of several maps of one size the last.
    last = {round(TRIED_WIDTH / one.shape[-1]): place for place, one in enumerate(maps)}
    strides = sorted(stride for stride in last if stride >= FINEST[kind])
    if not strides:
        raise RequestError(
            f"--backbone: the coarsest map of {settings.name} has {max(last)} pixels a cell, and "
            f"{kind} begins at {FINEST[kind]}; take another network"
        )
    body.choose([last[stride] for stride in strides])
    return Backbone(body, [maps[last[stride]].shape[1] for stride in strides], strides, kind)


class _Maps(nn.Module):
    """A network's maps as a list: all of them, or those in some places."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.places: list[int] | None = None

    def choose(self, places: list[int]) -> None:
        """Give only some of them from now on."""
        self.places = places

    def all_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Every one, in the order in which they are made."""
        maps = self.module(images)
        return list(maps.values()) if isinstance(maps, dict) else [maps]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.all_maps(images)
        return maps if self.places is None else [maps[place] for place in self.places]


class _MapsOfTimm(_Maps):
    def choose(self, places: list[int]) -> None:
        super().choose(places)
        # What comes behind the last one is the classifier's head.
        self.module.prune_intermediate_layers(places, prune_norm=True)  # type: ignore[operator]

    def all_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = self.module.forward_intermediates(  # type: ignore[operator]
            images, intermediates_only=True, output_fmt="NCHW"
        )
        return maps


def _maps_of_torchvision(module: nn.Module) -> _Maps:
    """The stages of a ResNet; of other networks what they pool."""
    if all(hasattr(module, stage) for stage in STAGES):
        return _Maps(create_feature_extractor(module, list(STAGES)))
    backbone = split_network(module).backbone
    assert isinstance(backbone, nn.Module)
    return _Maps(backbone)


class _OfEach(nn.Module):
    """A layer on every map."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return OrderedDict((name, self.layer(one)) for name, one in maps.items())
