"""How well a trained network classifies, and what its features and its maps are like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cambox.config_cam import CamSettings
from cambox.maps import MapMaker
from cambox.models.heads import TailHead
from cambox.models.inspect import completeness_error
from research.candidates import Candidate
from research.hit_rates import Interval, interval_over
from research.map_variants import (
    BATCH_SIZE,
    VARIANTS,
    HeldOut,
    classifier_from,
    maps_of,
    of_pairs,
)
from research.training import LabelledScenes, logits_of, mean_average_precision

_TAP = CamSettings.model_validate({"pooling": {"kind": "thresholded", "threshold": 0.1}})


@dataclass(frozen=True)
class Traits:
    """What a network and its features are like.

    Attributes:
        mean_average_precision: of classification, on held-out scenes, by the network's own head.
        pooling_change: of it, when features are pooled by TAP at 0.1 instead; None where nothing
            is pooled.
        negative: share of negative values in the features that the map is made of.
        zero: where no evidence at all lies between a map's minimum, 0, and its maximum, 1; median
            over the pairs.
        map_share: how much of the differences between pictures' logits the maps' means follow;
            the rest is in what the maps leave out.
        completeness_error: see ``cambox.models.inspect``.
    """

    network: str
    kind: str
    parameters: int
    mean_average_precision: float
    pooling_change: float | None
    pooling_interval: Interval | None
    negative: float
    zero: float
    map_share: float
    completeness_error: float | None


def traits(
    candidate: Candidate, module: torch.nn.Module, scenes: LabelledScenes, held_out: HeldOut
) -> Traits:
    """How well the network classifies held-out scenes, and what its features and maps are like."""
    classifier = classifier_from(candidate, module, "auto")
    batches = [
        classifier.scores(batch)
        for batch in np.array_split(scenes.images, -(-len(scenes.images) // BATCH_SIZE))
    ]
    labels = scenes.labels
    own = torch.cat([batch.logits for batch in batches]).numpy()
    change = change_interval = None
    if not isinstance(classifier.head, TailHead):
        maker = MapMaker(_TAP, classifier)
        pooled = torch.cat([maker.logits(batch) for batch in batches]).numpy()

        def change_for(counts: np.ndarray) -> float:
            chosen = np.repeat(np.arange(len(labels)), counts)
            return mean_average_precision(pooled[chosen], labels[chosen]) - mean_average_precision(
                own[chosen], labels[chosen]
            )

        change = change_for(np.ones(len(labels), np.int64))
        change_interval = interval_over(np.arange(len(labels)), change_for)
    maps = maps_of(candidate, classifier, VARIANTS[0], held_out.images)
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
        zero_level(maps, held_out),
        map_share(maps, torch.from_numpy(logits_of(module, held_out.images))),
        completeness_error(classifier, shown, scores, maker.maps(scores, class_ids), class_ids),
    )


def zero_level(maps: torch.Tensor, held_out: HeldOut) -> float:
    """Where no evidence lies between the least and the largest cell of a map; the median."""
    cells = of_pairs(maps, held_out).reshape(len(held_out.pairs), -1)
    low, high = cells.min(axis=1), cells.max(axis=1)
    return float(np.median(-low / (high - low)))


def map_share(maps: torch.Tensor, logits: torch.Tensor) -> float:
    """How much of what tells pictures apart the maps tell, mean over the classes.

    Args:
        maps: (N, K, h, w).
        logits: (N, K).

    Returns:
        The slope of the maps' means over the logits: 1 where the rest is the same for all
        pictures, 0 where the maps' means have nothing to do with the logits.
    """
    means = maps.mean(dim=(2, 3))
    means, logits = means - means.mean(dim=0), logits - logits.mean(dim=0)
    return float(((means * logits).sum(dim=0) / logits.square().sum(dim=0)).mean())
