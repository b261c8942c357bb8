"""Peak memory of one batch: a plain forward pass, cambox, and grad-cam."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.common import To, in_a_process, peak_resident, reset_peak, write_figures
from bench.peers import channels_first
from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.load import load_classifier

Way = Literal["forward", "cambox", "grad-cam"]
WAYS: tuple[Way, ...] = ("forward", "cambox", "grad-cam")
MODELS = {
    "resnet50": "layer4",
    "swin_tiny_patch4_window7_224": "norm",
    "convnext_tiny": "stages.3",
    "vit_small_patch16_224": "blocks.11.norm1",
}
"""Models, and the layer that a user of grad-cam names for each."""


@dataclass(frozen=True)
class Peak:
    """The most memory a batch took.

    Attributes:
        way: a plain forward pass, with five maps of each image by cambox, or one by grad-cam.
        weights: bytes held before the batch, the model and the process on a CPU.
        added: bytes at the peak above those.
    """

    model: str
    way: Way
    batch: int
    device: str
    weights: int
    added: int


def memory(
    batch: Annotated[int, typer.Option(min=1, help="Images of the batch")] = 64,
    repeats: Annotated[
        int, typer.Option(min=1, help="Of which the median is taken: allocators vary")
    ] = 3,
    to: To = None,
) -> None:
    """Peak memory of a batch: a plain forward pass, cambox, and grad-cam; on the GPU if any."""
    console = Console()
    cases = [(model, way) for model in MODELS for way in WAYS]
    peaks: list[Peak] = []
    for model, way in track(cases, "measuring", console=console):
        measured = [in_a_process(measure_peak, model, way, batch) for _ in range(repeats)]
        peaks.append(sorted(measured, key=lambda peak: peak.added)[repeats // 2])
    table = Table("model", "way", "before", "added at the peak", "over forward")
    plain = {peak.model: peak.added for peak in peaks if peak.way == "forward"}
    for peak in peaks:
        sizes = [f"{size / 2**20:.0f} MiB" for size in (peak.weights, peak.added)]
        table.add_row(peak.model, peak.way, *sizes, f"{peak.added / plain[peak.model] - 1:+.1%}")
    console.print(table)
    write_figures(peaks, to)


def measure_peak(model: str, way: Way, batch: int) -> Peak:
    """Run one batch and say how high the memory rose; meant for a process of its own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(2)
    classifier = load_classifier(ModelSettings(name=model), device, "float32")
    size = classifier.preprocessing
    images = np.random.default_rng(0).integers(
        0, 256, (batch, size.height, size.width, 3), dtype=np.uint8
    )
    work = _work(classifier, way, MODELS[model])
    work(images[:1])
    before = _reset_peak(device)
    work(images)
    return Peak(model, way, batch, str(device), before, _peak(device) - before)


def _work(classifier: Classifier, way: Way, layer: str) -> Callable[[np.ndarray], object]:
    if way == "grad-cam":
        from pytorch_grad_cam import GradCAM

        module = classifier.module.requires_grad_(True)
        peer = GradCAM(module, [module.get_submodule(layer)], reshape_transform=_feature_map)
        return lambda images: peer(classifier.normalised(images), None)
    maker = MapMaker(CamSettings(), classifier)

    @torch.inference_mode()
    def annotate(images: np.ndarray) -> object:
        if way == "forward":
            return classifier.module(classifier.normalised(images))
        scores = classifier.scores(images)
        return maker.maps(scores, scores.logits.topk(5, dim=1).indices)

    return annotate


def _feature_map(features: torch.Tensor) -> torch.Tensor:
    """Tokens (B, L, C), (B, H, W, C) or (B, C, H, W) of a square image as the last of these."""
    if features.ndim == 3:
        side = int(features.shape[1] ** 0.5)
        cells = features[:, -side * side :]
        return channels_first(cells.reshape(len(cells), side, side, -1))
    return channels_first(features) if features.shape[1] == features.shape[2] else features


def _reset_peak(device: torch.device) -> int:
    """Start counting anew; the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # What the allocator keeps of the start would serve the batch unseen, some times and not others.
    ctypes.CDLL(None).malloc_trim(0)
    return reset_peak()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident()
