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
from rich.console import Console
from rich.progress import Progress

from jobs.candidates import (
    CANDIDATES,
    SIDE,
    Candidate,
    Lessons,
    load_weights,
    make_lessons,
    save_weights,
    teach,
)
from jobs.hit_rates import hits, interval, interval_of, resampled_counts, resampled_rates
from jobs.map_variants import (
    VARIANTS,
    HeldOut,
    classifier_from,
    held_out_scenes,
    maps_of,
    means_something,
)
from jobs.network_results import Traits, VariantResult, picture, tables
from jobs.training import FIRST_HELD_OUT_SEED, LabelledScenes, load_scenes, mean_average_precision
from pipeline.cams import BoxRule
from pipeline.config import CamSettings
from pipeline.facts import completeness_error
from pipeline.maps import MapMaker
from pipeline.models.heads import TailHead

THRESHOLDS = tuple(float(tau) for tau in np.round(np.arange(0.05, 0.96, 0.05), 2))
SCENES_IN_THE_PICTURE = 6
_TAP = CamSettings.model_validate({"pooling": {"kind": "thresholded", "threshold": 0.1}})


def compare(
    candidate: Candidate, module: torch.nn.Module, held_out: HeldOut, progress: Progress
) -> tuple[list[VariantResult], torch.Tensor]:
    """All variants of one network, and its plain maps (N, K, h, w)."""
    results: list[VariantResult] = []
    counts = resampled_counts(len(held_out.images))
    plain_maps = None
    plain_rates = np.zeros(0)
    for variant in progress.track(VARIANTS, description=f"Boxes of {candidate.name}"):
        classifier = classifier_from(candidate, module, variant.rule)
        if not means_something(variant, classifier):
            continue
        maps = maps_of(candidate, classifier, variant, held_out.images)
        hit = np.stack(
            [hits(maps, held_out.pairs, (SIDE, SIDE), BoxRule(tau, 100.0)) for tau in THRESHOLDS]
        )
        rates = hit.mean(axis=1)
        # The threshold is chosen anew for each resample, as it is for the sample.
        resampled = resampled_rates(hit, held_out.pairs, counts).max(axis=1)
        if plain_maps is None:
            plain_maps, plain_rates = maps, resampled
        results.append(
            VariantResult(
                candidate.name,
                str(classifier.head.kind),
                variant.title,
                float(rates.max()),
                THRESHOLDS[int(rates.argmax())],
                interval(resampled),
                {f"{tau:.2f}": float(rate) for tau, rate in zip(THRESHOLDS, rates, strict=True)},
                float(rates.max()) - (results[0].best if results else float(rates.max())),
                interval(resampled - plain_rates) if results else None,
            )
        )
    assert plain_maps is not None
    return results, plain_maps


def traits(
    candidate: Candidate, module: torch.nn.Module, scenes: LabelledScenes, held_out: HeldOut
) -> Traits:
    """How well the network classifies held-out scenes, and what its features and maps are like."""
    classifier = classifier_from(candidate, module, "auto")
    batches = [classifier.scores(batch) for batch in np.array_split(scenes.images, 10)]
    labels = scenes.labels
    own = torch.cat([batch.logits for batch in batches]).numpy()
    change = change_interval = None
    if not isinstance(classifier.head, TailHead):
        maker = MapMaker(_TAP, classifier)
        pooled = torch.cat([maker.logits(batch) for batch in batches]).numpy()

        def change_for(chosen: np.ndarray) -> float:
            return mean_average_precision(pooled[chosen], labels[chosen]) - mean_average_precision(
                own[chosen], labels[chosen]
            )

        change = change_for(np.arange(len(labels)))
        change_interval = interval_of(change_for, len(labels), resamples=1000)
    shown = held_out.images[:8]
    maker = MapMaker(CamSettings(), classifier)
    scores = classifier.scores(shown)
    class_ids = torch.arange(classifier.class_count).expand(len(shown), -1)
    features = torch.cat([batch.feature_map for batch in batches])
    return Traits(
        candidate.name,
        str(classifier.head.kind),
        sum(parameter.numel() for parameter in module.parameters()),
        mean_average_precision(own, labels),
        change,
        change_interval,
        float((features < 0).float().mean()),
        zero_level(candidate, module, held_out),
        completeness_error(classifier, shown, scores, maker.maps(scores, class_ids), class_ids),
    )


def zero_level(candidate: Candidate, module: torch.nn.Module, held_out: HeldOut) -> float:
    """Where no evidence lies between the least and the largest cell of a map; the median."""
    maps = maps_of(
        candidate, classifier_from(candidate, module, "auto"), VARIANTS[0], held_out.images
    )
    of_pairs = torch.stack([maps[pair.image, pair.class_id] for pair in held_out.pairs])
    low, high = of_pairs.amin(dim=(1, 2)), of_pairs.amax(dim=(1, 2))
    return float((-low / (high - low)).median())


def main(
    to: Annotated[Path, typer.Option(help="Folder of the figures and the picture.")] = Path("docs"),
    weights: Annotated[Path, typer.Option(help="Trained weights, kept for the next time.")] = Path(
        "out/networks"
    ),
    pictures: Annotated[int, typer.Option(help="Scenes to compare on.")] = 240,
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
        to_score = load_scenes(FIRST_HELD_OUT_SEED, 500, progress, "Held-out scenes")
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
    cv2.imwrite(str(to / "networks.jpg"), drawn[:, :, ::-1])
    console.print(tables(results, measured), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
