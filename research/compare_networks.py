"""Is a Swin map as good a map? Small networks of several makes, trained alike, compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from research.candidates import (
    CANDIDATES,
    Candidate,
    Lesson,
    load_weights,
    make_lessons,
    save_weights,
    teach,
)
from research.hit_rates import LARGEST, Interval, interval_over, overlaps, table
from research.map_variants import (
    VARIANTS,
    HeldOut,
    classifier_from,
    held_out_scenes,
    maps_of,
    means_something,
    of_pairs,
)
from research.network_traits import Traits, traits
from research.training import FIRST_HELD_OUT_SEED, SIDE, load_scenes

THRESHOLDS = tuple(float(tau) for tau in np.round(np.arange(0.05, 0.96, 0.05), 2))
IOU = 0.5
SCENES_IN_THE_PICTURE = 6


@dataclass(frozen=True)
class VariantResult:
    """Shares of (image, class) pairs whose largest box hits a true box at IoU 0.5.

    Attributes:
        kind: of the head.
        best: at the best threshold for all images, as a share of the maximum.
        by_threshold: at each threshold that was tried.
        gain: of ``best`` over that of the plain maps, each at its own best threshold.
        gain_interval: 95 % of it; None for the plain maps themselves.
    """

    network: str
    kind: str
    variant: str
    best: float
    best_threshold: float
    best_interval: Interval
    by_threshold: dict[str, float]
    gain: float
    gain_interval: Interval | None


def compare(
    candidate: Candidate, module: torch.nn.Module, held_out: HeldOut, progress: Progress
) -> tuple[list[VariantResult], torch.Tensor]:
    """All variants of one network, and its plain maps (N, K, h, w)."""
    results: list[VariantResult] = []
    pictures = np.array([pair.image for pair in held_out.pairs])
    true_corners = [pair.corners for pair in held_out.pairs]
    plain_maps, plain_hit = torch.zeros(0), np.zeros((0, 0), np.bool_)

    def best(hit: NDArray[np.bool_], counts: NDArray[np.int64]) -> float:
        # The threshold is chosen anew for each resample, as it is for the sample.
        return float((counts @ hit).max() / counts.sum())

    for variant in progress.track(VARIANTS, description=f"Boxes of {candidate.name}"):
        classifier = classifier_from(candidate, module, variant.rule)
        if not means_something(variant, classifier):
            continue
        maps = maps_of(candidate, classifier, variant, held_out.images)
        found = overlaps(of_pairs(maps, held_out), true_corners, SIDE, THRESHOLDS)
        hit = found[LARGEST] >= IOU
        rates = hit.mean(axis=0)
        if not results:
            plain_maps, plain_hit = maps, hit
        gain_interval = (
            interval_over(pictures, lambda counts: best(hit, counts) - best(plain_hit, counts))  # noqa: B023
            if results
            else None
        )
        results.append(
            VariantResult(
                network=candidate.name,
                kind=str(classifier.head.kind),
                variant=variant.title,
                best=float(rates.max()),
                best_threshold=THRESHOLDS[int(rates.argmax())],
                best_interval=interval_over(pictures, lambda counts: best(hit, counts)),  # noqa: B023
                by_threshold={
                    f"{tau:.2f}": float(rate) for tau, rate in zip(THRESHOLDS, rates, strict=True)
                },
                gain=float(rates.max() - plain_hit.mean(axis=0).max()),
                gain_interval=gain_interval,
            )
        )
    return results, plain_maps


def picture(held_out: HeldOut, maps: list[torch.Tensor], scenes: int) -> NDArray[np.uint8]:
    """A row for each scene: the picture, then the map of its first class by each network."""
    rows = []
    for image in range(scenes):
        pair = next(pair for pair in held_out.pairs if pair.image == image)
        shown = held_out.images[image]
        tiles = [shown]
        for of_network in maps:
            values = cv2.resize(
                of_network[image, pair.class_id].numpy(),
                (shown.shape[1], shown.shape[0]),
                interpolation=cv2.INTER_CUBIC,
            )
            levels = cv2.normalize(values, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
            heat = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
            tiles.append(cv2.addWeighted(shown, 0.35, heat, 0.65, 0).astype(np.uint8))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def main(
    to: Annotated[Path, typer.Option(help="Folder of the figures and the picture.")] = Path("docs"),
    weights: Annotated[Path, typer.Option(help="Trained weights, kept for the next time.")] = Path(
        "out/networks"
    ),
    pictures: Annotated[int, typer.Option(help="Scenes to compare on.")] = 240,
    scored: Annotated[int, typer.Option(help="Scenes to measure the classification on.")] = 500,
    close_ups: Annotated[int, typer.Option(help="To train each network on.")] = 4000,
    close_up_epochs: Annotated[int, typer.Option(help="Passes over the close-ups.")] = 8,
    scenes: Annotated[int, typer.Option(help="To train each network on, then.")] = 4000,
    scene_epochs: Annotated[int, typer.Option(help="Passes over the scenes.")] = 4,
    seed: Annotated[int, typer.Option(help="Of weights, order and changes.")] = 0,
) -> None:
    """Train small networks of several makes alike on the demo's pictures and compare their maps.

    A network that has not learned its classes says nothing of its maps: look at the mAP first.
    Training takes about eight minutes a network on one core, the comparison one.
    """
    console = Console()
    results: list[VariantResult] = []
    measured: list[Traits] = []
    plain = []
    with Progress(console=console) as progress:
        held_out = held_out_scenes(pictures, progress)
        to_score = load_scenes(FIRST_HELD_OUT_SEED, scored, progress, "Held-out scenes")
        lessons: tuple[Lesson, ...] = ()
        for candidate in CANDIDATES:
            path = weights / candidate.file_name
            if path.exists():
                module = load_weights(candidate, path)
            else:
                lessons = lessons or make_lessons(
                    close_ups, close_up_epochs, scenes, scene_epochs, progress
                )
                module = teach(candidate, lessons, seed, progress)
                save_weights(module, path)
            measured.append(traits(candidate, module, to_score, held_out))
            found = measured[-1].mean_average_precision
            console.print(f"{candidate.name}: mAP {found:.3f} on {scored} held-out scenes")
            variants, maps = compare(candidate, module, held_out, progress)
            results += variants
            plain.append(maps)
    to.mkdir(parents=True, exist_ok=True)
    document = {
        "pairs": len(held_out.pairs),
        "networks": [asdict(one) for one in measured],
        "results": [asdict(one) for one in results],
    }
    (to / "networks.json").write_text(json.dumps(document, indent=1) + "\n")
    drawn = picture(held_out, plain, min(SCENES_IN_THE_PICTURE, pictures))
    quality = [cv2.IMWRITE_JPEG_QUALITY, 80]
    cv2.imwrite(str(to / "networks.jpg"), drawn[:, :, ::-1], quality)
    for rows in (measured, results):
        console.print(table(rows), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
