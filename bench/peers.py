"""The same work by what a user would pick instead: the top-5 boxes of each image, on disk.

All of them read the same shards with a DataLoader, squash images to the network's input, run the
network as its library builds it, in batches and in the precision that cambox has, and write one
line of JSON an image. A box is that of the largest component of the map above a share of its
maximum.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cambox.sources.load import squash

Peer = Literal["grad-cam", "torchcam", "paper", "script"]
PEERS: tuple[Peer, ...] = ("grad-cam", "torchcam", "paper", "script")
CLASSES = 5
JPEG_SUFFIXES = (".jpg", ".jpeg")
THRESHOLD = 0.35
Box = list[int]  # x, y, width and height, in pixels of the image


@dataclass(frozen=True)
class PeerLayers:
    """What a user of a peer names of a network.

    Attributes:
        features: path of the module that gives the last feature map.
        classifier: path of the last linear layer.
        channels_last: the feature map is (B, H, W, C), which torchcam does not take.
    """

    features: str
    classifier: str
    channels_last: bool = False

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Those that can."""
        return tuple(peer for peer in PEERS if not self.channels_last or peer != "torchcam")


PEER_LAYERS = {
    "mobilenetv2_100": PeerLayers("bn2", "classifier"),
    "resnet50": PeerLayers("layer4", "fc"),
    "swin_tiny_patch4_window7_224": PeerLayers("norm", "head.fc", channels_last=True),
}


@dataclass(frozen=True)
class PeerNetwork:
    """A network with what a user of a peer tells it.

    Attributes:
        precision: name of a dtype; of another than float32 with autocast, as cambox has it.
    """

    module: nn.Module
    layers: PeerLayers
    precision: str
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Photographs(IterableDataset[tuple[torch.Tensor, int, int]]):
    """Images of tar shards, each worker with shards of its own."""

    def __init__(self, shards: list[Path], network: PeerNetwork) -> None:
        self.shards = shards
        self.side = network.side
        self.mean = np.array(network.mean, np.float32) * 255
        self.std = np.array(network.std, np.float32) * 255

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        step, start = (1, 0) if worker is None else (worker.num_workers, worker.id)
        for shard in self.shards[start::step]:
            with tarfile.open(shard) as archive:
                for member in archive:
                    if not member.name.lower().endswith(JPEG_SUFFIXES):
                        continue
                    file = archive.extractfile(member)
                    assert file is not None
                    data = np.frombuffer(file.read(), np.uint8)
                    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
                    assert image is not None
                    height, width = image.shape[:2]
                    small = squash(image, self.side, self.side)
                    pixels = (small.astype(np.float32) - self.mean) / self.std
                    yield torch.from_numpy(pixels.transpose(2, 0, 1).copy()), height, width


OfRanks = list[Sequence[np.ndarray] | np.ndarray]
"""The maps of each image of a batch, for each of its ``CLASSES`` best classes in turn."""
Maps = Callable[[torch.Tensor], OfRanks]


def run_peer(
    peer: Peer, network: PeerNetwork, shards: list[Path], to: Path, batch: int, workers: int
) -> int:
    """Find the boxes of all images of the shards and write them.

    Returns:
        The number of images.
    """
    images = 0
    device = next(network.module.parameters()).device
    method, box_of = _METHODS[peer]
    with ExitStack() as stack:
        find = method(network, stack)
        # grad-cam makes numpy arrays of its activations, which know no bfloat16.
        on = network.precision != "float32" and peer != "grad-cam"
        precision = getattr(torch, network.precision)
        stack.enter_context(torch.autocast(device.type, precision, enabled=on))
        file = stack.enter_context(to.open("w"))
        for pixels, heights, widths in DataLoader(
            _Photographs(shards, network), batch_size=batch, num_workers=workers
        ):
            maps = zip(*find(pixels.to(device)), strict=True)
            sizes = zip(heights.tolist(), widths.tolist(), strict=True)
            for of_image, (height, width) in zip(maps, sizes, strict=True):
                boxes = [box_of(score_map, height, width) for score_map in of_image]
                file.write(json.dumps(boxes) + "\n")
            images += len(pixels)
    return images


def _grad_cam(network: PeerNetwork, stack: ExitStack) -> Maps:
    """As its README: a batch, and a target for each image; once for each rank."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network.module.requires_grad_(True)
    layer = network.module.get_submodule(network.layers.features)
    reshape = channels_first if network.layers.channels_last else None
    peer = stack.enter_context(GradCAM(network.module, [layer], reshape_transform=reshape))

    def find(pixels: torch.Tensor) -> OfRanks:
        with torch.no_grad():
            classes = network.module(pixels).topk(CLASSES).indices
        return [peer(pixels, list(map(ClassifierOutputTarget, ids))) for ids in classes.T.tolist()]

    return find


def _torchcam(network: PeerNetwork, stack: ExitStack) -> Maps:
    """As its README, under no_grad, with a list of class indices for a batch."""
    from torchcam.methods import CAM

    layers = network.layers
    extractor = stack.enter_context(
        CAM(network.module, target_layer=layers.features, fc_layer=layers.classifier)
    )
    size = (network.side, network.side)

    @torch.inference_mode()
    def find(pixels: torch.Tensor) -> OfRanks:
        scores = network.module(pixels)
        maps: OfRanks = []
        for ids in scores.topk(CLASSES).indices.T.tolist():
            (small,) = extractor(ids, scores)
            of_rank = small.float().cpu().numpy()
            maps.append([cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in of_rank])
        return maps

    return find


def _paper(network: PeerNetwork, stack: ExitStack) -> Maps:
    """All class maps by a 1x1 convolution, one class at a time."""
    features = _hooked(network, stack)
    weight = _class_weights(network)[:, :, None, None]

    @torch.inference_mode()
    def find(pixels: torch.Tensor) -> OfRanks:
        classes = network.module(pixels).topk(CLASSES).indices
        maps = F.conv2d(features.pop(), weight)
        images = torch.arange(len(maps))
        return [maps[images, ids].float().cpu().numpy() for ids in classes.T]

    return find


def _script(network: PeerNetwork, stack: ExitStack) -> Maps:
    """What one writes oneself: a hook, the wanted classes in one product, boxes at the input."""
    features = _hooked(network, stack)
    weight = _class_weights(network)
    size = (network.side, network.side)

    @torch.inference_mode()
    def find(pixels: torch.Tensor) -> OfRanks:
        classes = network.module(pixels).topk(CLASSES).indices
        maps = torch.einsum("bnc,bchw->nbhw", weight[classes], features.pop())
        large = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)
        return list(large.cpu().numpy())

    return find


def _class_weights(network: PeerNetwork) -> torch.Tensor:
    weight: torch.Tensor = network.module.get_parameter(f"{network.layers.classifier}.weight")
    return weight


def _hooked(network: PeerNetwork, stack: ExitStack) -> list[torch.Tensor]:
    outputs: list[torch.Tensor] = []

    def keep(_: nn.Module, args: Any, output: torch.Tensor) -> None:
        outputs.append(channels_first(output) if network.layers.channels_last else output)

    layer = network.module.get_submodule(network.layers.features)
    stack.callback(layer.register_forward_hook(keep).remove)
    return outputs


def channels_first(features: torch.Tensor) -> torch.Tensor:
    """(B, H, W, C) as (B, C, H, W)."""
    return features.permute(0, 3, 1, 2)


def _mask(score_map: np.ndarray) -> np.ndarray:
    low, high = score_map.min(), score_map.max()
    mask: np.ndarray = (score_map - low) / max(high - low, 1e-9) > THRESHOLD
    return mask.astype(np.uint8)


def _largest(score_map: np.ndarray, height: int, width: int) -> Box:
    """The box of the largest component of a map at the network's input."""
    mask = _mask(score_map)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if len(stats) < 2:
        return [0, 0, 0, 0]
    box = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))][:4]
    across, down = width / mask.shape[1], height / mask.shape[0]
    return [round(float(value)) for value in box * [across, down, across, down]]


def _outlined(score_map: np.ndarray, height: int, width: int) -> Box:
    """The box of the largest contour of a map at the size of the image."""
    mask = _mask(cv2.resize(score_map, (width, height)))
    outlines, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return list(cv2.boundingRect(max(outlines, key=cv2.contourArea)))


_METHODS: dict[
    Peer,
    tuple[Callable[[PeerNetwork, ExitStack], Maps], Callable[[np.ndarray, int, int], Box]],
] = {
    "grad-cam": (_grad_cam, _largest),
    "torchcam": (_torchcam, _largest),
    "paper": (_paper, _outlined),
    "script": (_script, _largest),
}
