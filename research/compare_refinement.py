"""What each ingredient of tight boxes gives and costs, for three real classifiers on photographs.

Thresholds are chosen on one half of the photographs and reported on the other.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from cambox.boxes import Boxes, best_overlaps, centre_box
from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.load import load_classifier
from cambox.models.middle import with_middle_layers
from cambox.output.rows import StoredMap
from research.hit_rates import ANY, IOUS, LARGEST, overlaps
from research.photographs import Photographs, decoded

_MOBILENET: dict[str, Any] = {"kwargs": {"pad_type": "same", "bn_eps": 1e-3}, "mean": [0.5] * 3}
_MOBILENET["std"] = _MOBILENET["mean"]
NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv2_100_coral_ptq": {"name": "mobilenetv2_100", **_MOBILENET},
    "mobilenetv1_100_coral_qat": {"name": "mobilenetv1_100", **_MOBILENET},
    "squeezenet1_1_onnxzoo": {"name": "torchvision/squeezenet1_1"},
}
BATCH_SIZE = 4
SPLITS = 20
BOX_RESOLUTION = 112
THRESHOLDS = np.arange(50) / 50
# No component is too small, and none is one too many.
BOXES = {"min_area": 0.0, "max_boxes": 2**31}


@dataclass(frozen=True)
class Ingredient:
    """One way to make maps, each with one change more than the one before."""

    title: str
    side: int
    cam: CamSettings


def _cam(**refine: float) -> CamSettings:
    centre = refine.pop("centre", None)
    return CamSettings.model_validate({"refine": refine, "centre": centre})


INGREDIENTS = (
    Ingredient("plain", 224, _cam()),
    Ingredient("input of 448", 448, _cam()),
    Ingredient("one step of affinity", 448, _cam(steps=1, feature_power=1)),
    Ingredient("two steps", 448, _cam(steps=2, feature_power=1)),
    Ingredient("roots of features", 448, _cam(steps=2, feature_power=0.5)),
    Ingredient("towards the centre", 448, _cam(steps=2, feature_power=0.5, centre=0.45)),
    Ingredient("plain, towards the centre", 224, _cam(centre=0.45)),
)


@dataclass(frozen=True)
class Result:
    """One ingredient with one network.

    Attributes:
        gt_known, max_box_acc_v2: shares at ``IOUS``, each threshold chosen on the other half.
        v2_mean: over the IoUs.
        v2_gain: of the mean over the first row of the network.
        threshold: best for all photographs at IoU 0.5, largest component.
        milliseconds: of network and maps, per photograph, median over batches.
        map_share: time of maps, refined or not, as a share of the forward pass of the same batch.
    """

    network: str
    ingredient: str
    side: int
    gt_known: tuple[float, ...]
    max_box_acc_v2: tuple[float, ...]
    v2_mean: float
    v2_gain: float
    threshold: float
    milliseconds: float
    map_share: float


def held_out(hits: NDArray[np.bool_], seed: int = 0) -> NDArray[np.float64]:
    """Shares of hits at thresholds that were chosen on other photographs.

    Args:
        hits: (photographs, thresholds, m).

    Returns:
        (m,) the mean over random halves, each chosen on and reported on.
    """
    generator = np.random.default_rng(seed)
    shares = []
    for _ in range(SPLITS):
        order = generator.permutation(len(hits))
        halves = order[: len(hits) // 2], order[len(hits) // 2 :]
        for chosen_on, reported_on in (halves, halves[::-1]):
            best = hits[chosen_on].mean(axis=0).argmax(axis=0)
            shares.append(hits[reported_on][:, best, np.arange(hits.shape[2])].mean(axis=0))
    return np.asarray(np.mean(shares, axis=0))


def overlaps_of(
    classifier: Classifier,
    ways: list[Ingredient],
    photographs: Photographs,
    progress: Progress,
    title: str,
) -> list[tuple[NDArray[np.float64], float, float]]:
    """(2, photographs, thresholds) IoU for each way, with the seconds of network and maps."""
    makers = [MapMaker(way.cam, classifier) for way in ways]
    side = ways[0].side
    found: list[list[NDArray[np.float64]]] = [[] for _ in ways]
    network: list[float] = []
    mapping: list[list[float]] = [[] for _ in ways]
    starts = range(0, len(photographs.files), BATCH_SIZE)
    for start in progress.track(starts, description=title):
        part = slice(start, start + BATCH_SIZE)
        images = [cv2.resize(decoded(file), (side, side)) for file in photographs.files[part]]
        class_ids = torch.tensor(photographs.classes[part])[:, None]
        begin = time.perf_counter()
        scores = classifier.scores(np.stack(images))
        network.append((time.perf_counter() - begin) / len(images))
        for maker, times, of_way in zip(makers, mapping, found, strict=True):
            begin = time.perf_counter()
            with torch.inference_mode():
                maps = maker.maps(scores, class_ids)[:, 0].numpy()
            times.append((time.perf_counter() - begin) / len(images))
            # In 8 bits, as an output stores them.
            kept = np.stack([StoredMap.of(0, 0, one).restore() for one in maps])
            true = photographs.corners[part]
            of_way.append(overlaps(kept, true, BOX_RESOLUTION, THRESHOLDS, **BOXES))
    forward = statistics.median(network)
    return [
        (np.concatenate(of_way, axis=1), forward, statistics.median(times))
        for of_way, times in zip(found, mapping, strict=True)
    ]


def measure(
    network: str, weights: Path, photographs: Photographs, progress: Progress
) -> list[Result]:
    """All ingredients with one network, in their order."""
    results: dict[str, Result] = {}
    for side in sorted({ingredient.side for ingredient in INGREDIENTS}):
        settings = ModelSettings(
            **NETWORKS[network], checkpoint=str(weights / f"{network}.safetensors"), input_size=side
        )
        classifier = load_classifier(settings, torch.device("cpu"), "float32")
        ways = [entry for entry in INGREDIENTS if entry.side == side]
        if any(entry.cam.refine.steps for entry in ways):
            classifier = with_middle_layers(classifier, CamSettings().refine.layers)
        measured = overlaps_of(classifier, ways, photographs, progress, f"{network} at {side}")
        for way, (best, forward, mapping) in zip(ways, measured, strict=True):
            hits = best[..., None] >= np.array(IOUS)
            v2 = held_out(hits[ANY])
            at_half = hits[LARGEST, :, :, IOUS.index(0.5)].mean(axis=0)
            results[way.title] = Result(
                network=network,
                ingredient=way.title,
                side=side,
                gt_known=tuple(held_out(hits[LARGEST]).tolist()),
                max_box_acc_v2=tuple(v2.tolist()),
                v2_mean=float(v2.mean()),
                v2_gain=0.0,
                threshold=float(THRESHOLDS[at_half.argmax()]),
                milliseconds=1000 * (forward + mapping),
                map_share=mapping / forward,
            )
    first = results[INGREDIENTS[0].title].v2_mean
    ordered = [results[ingredient.title] for ingredient in INGREDIENTS]
    return [replace(result, v2_gain=result.v2_mean - first) for result in ordered]


def table(results: list[Result], centre: NDArray[np.float64]) -> str:
    """The table of the docs, in Markdown."""
    lines = [
        "| network | maps | input | GT-known at 0.3 | 0.5 | 0.7 | V2 at 0.3 | 0.5 | 0.7 | mean "
        "| gain | best threshold | ms | of it maps |",
        "|" + "---|" * 14,
        "| | a box in the middle | |"
        + "".join(f" {100 * share:.1f} |" for share in [*centre, *centre, centre.mean()])
        + " | | | |",
    ]
    for result in results:
        shares = [*result.gt_known, *result.max_box_acc_v2, result.v2_mean]
        figures = " | ".join(f"{100 * share:.1f}" for share in shares)
        lines.append(
            f"| {result.network} | {result.ingredient} | {result.side} | {figures} | "
            f"{100 * result.v2_gain:+.1f} | {result.threshold:.2f} | {result.milliseconds:.0f} | "
            f"{result.map_share:.0%} |"
        )
    return "\n".join(lines)


def main(
    photographs: Annotated[Path, typer.Option(help="Folder with images, images.csv, boxes.csv.")],
    weights: Annotated[Path, typer.Option(help="Folder of the classifiers.")],
    to: Annotated[Path, typer.Option(help="The figures.")] = Path("docs/refinement.json"),
) -> None:
    """Measure maps of several makes on photographs with true boxes and print the table.

    Takes about four minutes on two CPU cores.
    """
    console = Console()
    read = Photographs.read(photographs)
    middle = Boxes.of(centre_box(1, 1))
    centred = [best_overlaps(middle, Boxes.of(true))[0] for true in read.corners]
    results: list[Result] = []
    with Progress(console=console) as progress:
        for network in NETWORKS:
            results += measure(network, weights, read, progress)
    to.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    centre = (np.array(centred)[:, None] >= np.array(IOUS)).mean(axis=0)
    console.print(table(results, centre), highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    typer.run(main)
