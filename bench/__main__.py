"""Measurements, as ratios taken in one run."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.boxes import boxes
from bench.ray_engine import ray_command, schedule
from bench.rebox import rebox
from bench.runs import flat, plan_command
from bench.throughput import throughput
from cambox.config import CamSettings, ModelSettings
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier, load_classifier

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Way = Literal["forward", "cambox", "grad-cam"]
WAYS: tuple[Way, ...] = ("forward", "cambox", "grad-cam")
MEMORY_MODELS = {
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


app.command()(throughput)
app.command("plan")(plan_command)
app.command()(schedule)
app.command("ray")(ray_command)
app.command()(flat)
app.command()(rebox)
app.command()(boxes)


@app.command()
def memory(
    batch: Annotated[int, typer.Option(min=1, help="Images of the batch")] = 64,
    repeats: Annotated[
        int, typer.Option(min=1, help="Of which the median is taken: allocators vary")
    ] = 3,
    to: Annotated[Path | None, typer.Option(help="Write the figures there, as JSON")] = None,
) -> None:
    """Peak memory of a batch: a plain forward pass, cambox, and grad-cam; on the GPU if any."""
    console = Console()
    cases = [(model, way) for model in MEMORY_MODELS for way in WAYS]
    peaks = []
    for model, way in track(cases, "measuring", console=console):
        measured = [_in_a_process(model, way, batch) for _ in range(repeats)]
        peaks.append(sorted(measured, key=lambda peak: peak.added)[repeats // 2])
    table = Table("model", "way", "before", "added at the peak", "over forward")
    plain = {peak.model: peak.added for peak in peaks if peak.way == "forward"}
    for peak in peaks:
        share = peak.added / plain[peak.model] - 1
        table.add_row(
            peak.model,
            peak.way,
            f"{peak.weights / 2**20:.0f} MiB",
            f"{peak.added / 2**20:.0f} MiB",
            f"{share:+.1%}",
        )
    console.print(table)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps([asdict(peak) for peak in peaks], indent=1) + "\n")


def _in_a_process(model: str, way: Way, batch: int) -> Peak:
    """A process for each: an allocator that has grown does not shrink."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure_peak, model, way, batch).result()


def measure_peak(model: str, way: Way, batch: int) -> Peak:
    """Run one batch and say how high the memory rose; meant for a process of its own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(2)
    classifier = load_classifier(ModelSettings(name=model), device, "float32")
    size = classifier.preprocessing
    images = np.random.default_rng(0).integers(
        0, 256, (batch, size.height, size.width, 3), dtype=np.uint8
    )
    work = _work(classifier, way, MEMORY_MODELS[model])
    work(images[:1])
    before = _reset_peak(device)
    work(images)
    return Peak(model, way, batch, str(device), before, _peak(device) - before)


def _work(classifier: Classifier, way: Way, layer: str) -> Callable[[np.ndarray], object]:
    if way == "forward":

        def forward(images: np.ndarray) -> object:
            with torch.inference_mode():
                return classifier.module(classifier.normalised(images))

        return forward
    if way == "cambox":
        maker = MapMaker(CamSettings(), classifier)

        def annotate(images: np.ndarray) -> object:
            with torch.inference_mode():
                scores = classifier.scores(images)
                return maker.maps(scores, scores.logits.topk(5, dim=1).indices)

        return annotate
    from pytorch_grad_cam import GradCAM

    classifier.module.requires_grad_(True)

    def reshape(features: torch.Tensor) -> torch.Tensor:
        if features.ndim == 3:
            side = int(features.shape[1] ** 0.5)
            cells = features[:, -side * side :].transpose(1, 2)
            return cells.reshape(len(features), -1, side, side)
        return features.permute(0, 3, 1, 2) if features.shape[1] == features.shape[2] else features

    peer = GradCAM(
        classifier.module, [classifier.module.get_submodule(layer)], reshape_transform=reshape
    )
    return lambda images: peer(classifier.normalised(images), None)


def _reset_peak(device: torch.device) -> int:
    """Start counting anew; the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # What the allocator keeps of the start would serve the batch unseen, some times and not others.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    app()
