"""Is a Swin map as good a map? Small networks of several makes, trained alike, compared."""

from __future__ import annotations

import json
from dataclasses import asdict
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
    Lessons,
    load_weights,
    make_lessons,
    save_weights,
    teach,
)
from research.hit_rates import LARGEST, interval_over, overlaps
from research.map_variants import (
    VARIANTS,
    HeldOut,
    classifier_from,
    held_out_scenes,
    maps_of,
    means_something,
    of_pairs,
)
from research.network_results import Traits, VariantResult, picture, tables
from research.network_traits import traits
from research.training import FIRST_HELD_OUT_SEED, SIDE, load_scenes

THRESHOLDS = tuple(float(tau) for tau in np.round(np.arange(0.05, 0.96, 0.05), 2))
IOU = 0.5
SCENES_IN_THE_PICTURE = 6


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
        lessons: Lessons | None = None
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
    console.print(tables(results, measured), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
