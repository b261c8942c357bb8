"""How well the agreement of looks finds the objects of scenes, held out, for one network or more.

The score of a box is a logistic regression on its traits, fitted on four fifths of the images
and used on the last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from sklearn.linear_model import LogisticRegression

from cambox.boxes import Boxes, centre_box, iou
from cambox.cams.agreement import TRAITS, choose
from cambox.cams.looks import Array
from cambox.cams.pyramid import COMPARED_LAYERS
from cambox.config import Config, InputSettings, ModelSettings, OutputSettings
from cambox.config_cam import CamSettings, ZoomSettings
from cambox.models.load import load_classifier
from cambox.models.middle import with_middle_layers
from cambox.review.evaluate.detection import figures, match
from cambox.sources.decode import SampleStatus
from cambox.sources.load import LoadedSample
from cambox.zoomed_image import ZoomedImages
from research import compare_refinement
from research.hit_rates import IOUS, Interval, interval_over
from research.photographs import Scenes, decoded

NETWORKS: dict[str, dict[str, Any]] = {
    **compare_refinement.NETWORKS,
    "efficientnet_lite0": {
        "name": "tf_efficientnet_lite0",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    },
}
FOLDS = 5
MOST_BOXES = 10
RIGHT = 0.5  # IoU
SEEN = 0.01
# Of the largest true box, as shares of the image: at least, and below.
AREAS = {
    "all": (0.0, np.inf),
    "> 50 %": (0.5, np.inf),
    "15-50": (0.15, 0.5),
    "5-15": (0.05, 0.15),
    "1-5": (0.01, 0.05),
    "< 1": (0.0, 0.01),
    "> 15": (0.15, np.inf),
    "< 15": (0.0, 0.15),
}
Ranked = tuple[Array, Array]
"""Corners (k, 4) as shares of the image and scores (k,), the best first."""


@dataclass(frozen=True)
class Pair:
    """A class of an image with its candidates.

    Attributes:
        true: (t, 4), the class's boxes, t from 1; all corners are shares of the image.
        corners: (n, 4) of the candidates.
        traits: (n, traits), see ``cams.agreement``.
        probability: of the class in the likeliest window, 0 to 1.
    """

    image: int
    class_id: int
    true: Array
    corners: Array
    traits: Array
    probability: float

    @property
    def largest(self) -> float:
        """The area of the largest true box, a share of the image."""
        return float((self.true[:, 2:] - self.true[:, :2]).prod(axis=1).max())


@dataclass(frozen=True)
class Regression:
    """The probability that a candidate has an IoU of ``RIGHT`` with a true box of its class."""

    weights: Array
    intercept: float

    @classmethod
    def fitted(cls, pairs: Sequence[Pair]) -> Regression:
        """Each pair counts the same, however many candidates it has."""
        traits = np.concatenate([pair.traits for pair in pairs])
        right = np.concatenate(
            [iou(one.corners[:, None], one.true[None]).max(axis=1) >= RIGHT for one in pairs]
        )
        counts = np.array([len(pair.corners) for pair in pairs])
        weight = np.repeat(1 / counts, counts)
        mean, spread = traits.mean(axis=0), traits.std(axis=0) + 1e-9
        model = LogisticRegression(max_iter=300)
        model.fit((traits - mean) / spread, right, sample_weight=weight / weight.mean())
        weights = model.coef_[0] / spread
        return cls(weights, float(model.intercept_[0] - weights @ mean))

    def scores(self, traits: Array) -> Array:
        """(n,) 0 to 1, of traits."""
        return np.asarray(1 / (1 + np.exp(-(traits @ self.weights + self.intercept))))


def candidates(network: str, weights: Path, scenes: Scenes, progress: Progress) -> list[Pair]:
    """All pairs of the scenes, as one network sees them."""
    zoom = ZoomSettings()
    settings = ModelSettings(**NETWORKS[network], checkpoint=str(weights))
    config = Config(
        input=InputSettings(shards=["-"]),
        model=settings,
        cam=CamSettings(classes="label", zoom=zoom),
        output=OutputSettings(uri="-"),
    )
    classifier = load_classifier(settings).of_groups(scenes.groups)
    looks = ZoomedImages(config, zoom, with_middle_layers(classifier, COMPARED_LAYERS), None)
    pairs = []
    with torch.inference_mode():
        for number, file in enumerate(progress.track(scenes.files, description=network)):
            image, true = decoded(file), scenes.true[number]
            labels = tuple(np.unique(true.class_id).tolist())
            height, width = image.shape[:2]
            sample = LoadedSample("", 0, SampleStatus.ok, None, width, height, labels, image)
            [scored] = looks.score([sample])
            for place, (corners, traits) in enumerate(looks.candidates(scored)):
                class_id = labels[place]
                pairs.append(
                    Pair(
                        number,
                        class_id,
                        true.corners[true.class_id == class_id],
                        corners,
                        traits,
                        scored.class_scores[place],
                    )
                )
    return pairs


def held_out(
    pairs: Sequence[Pair], fitted_on: Sequence[Sequence[Pair]], images: int
) -> list[Ranked]:
    """The boxes of each pair, by a regression that saw no image of its fold.

    Args:
        fitted_on: pairs of the same images as one network or more sees them.
        images: how many there are.
    """
    fold = np.empty(images, np.int64)
    fold[np.random.default_rng(0).permutation(images)] = np.arange(images) % FOLDS
    rules = [
        Regression.fitted([one for some in fitted_on for one in some if fold[one.image] != left])
        for left in range(FOLDS)
    ]
    return [
        choose(one.corners, rules[fold[one.image]].scores(one.traits), MOST_BOXES) for one in pairs
    ]


@dataclass(frozen=True)
class Result:
    """One way to score the boxes of one network.

    Attributes:
        fitted_on: whose candidates the regression saw: its own, the other networks', or all.
        kept: which boxes are written.
        gt_known: by ``AREAS``, at each of ``IOUS``: the share of pairs whose first box is right;
            areas without a pair are left out.
        interval: of it at IoU 0.5 over all pairs.
        seen, unseen: of it at IoU 0.5, where the class has a probability of at least ``SEEN`` in
            the whole image, and elsewhere.
        precision, recall, ap50: of all boxes that are written.
    """

    network: str
    fitted_on: str
    kept: str
    gt_known: dict[str, list[float]]
    interval: Interval
    seen: float
    unseen: float
    precision: float
    recall: float
    ap50: float


def measure(
    title: tuple[str, str, str], pairs: Sequence[Pair], boxes: Sequence[Ranked], images: int
) -> Result:
    """The figures of the boxes of each pair, one at least."""
    first = [iou(ranked[0][0], one.true).max() for one, ranked in zip(pairs, boxes, strict=True)]
    hits = np.array(first)[:, None] >= np.array(IOUS)
    half = hits[:, IOUS.index(RIGHT)]
    largest = np.array([pair.largest for pair in pairs])
    seen = np.array([pair.probability for pair in pairs]) >= SEEN
    found = Boxes.joined(
        Boxes.of(corners, image=one.image, class_id=one.class_id, score=scores)
        for one, (corners, scores) in zip(pairs, boxes, strict=True)
    )
    true = Boxes.joined(Boxes.of(one.true, image=one.image, class_id=one.class_id) for one in pairs)
    [[precision, recall, _, ap50, _]] = figures(match(found, true), np.ones((1, images)))
    return Result(
        *title,
        gt_known={
            name: hits[(low <= largest) & (largest < high)].mean(axis=0).tolist()
            for name, (low, high) in AREAS.items()
            if ((low <= largest) & (largest < high)).any()
        },
        interval=interval_over(
            np.array([pair.image for pair in pairs]),
            lambda counts: float(counts @ half / counts.sum()),
        ),
        seen=float(half[seen].mean()),
        unseen=float(half[~seen].mean()),
        precision=float(precision),
        recall=float(recall),
        ap50=float(ap50),
    )


def fewer(boxes: Sequence[Ranked], share: float, least: float) -> list[Ranked]:
    """Only boxes with a share of the pair's best score, and a score, at least; the first stays."""
    kept = []
    for corners, scores in boxes:
        enough = (scores >= share * scores[0]) & (scores >= least)
        enough[0] = True
        kept.append((corners[enough], scores[enough]))
    return kept


def table(results: Sequence[Result]) -> str:
    """The table of the docs, in Markdown: GT-known at ``RIGHT`` by area, then the other figures."""
    areas = list(results[0].gt_known)
    names = ["network", "regression of", "boxes", *areas]
    names += ["95 %", "at 0.3", "at 0.7", "recall", "precision", "AP50"]
    lines = [names, ["---"] * len(names)]
    for one in results:
        shares = [one.gt_known[name][IOUS.index(RIGHT)] for name in areas]
        low, _, high = one.gt_known["all"]
        rest = [low, high, one.recall, one.precision, one.ap50]
        span = f"{100 * one.interval.low:.1f} to {100 * one.interval.high:.1f}"
        cells = [[f"{100 * share:.1f}" for share in some] for some in (shares, rest)]
        lines.append([one.network, one.fitted_on, one.kept, *cells[0], span, *cells[1]])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(
    data: Annotated[Path, typer.Option(help="Folder of the scenes, see Scenes.read.")],
    weights: Annotated[list[Path], typer.Option(help="A network's, <name>.safetensors; again.")],
    to: Annotated[Path, typer.Option(help="The figures.")] = Path("docs/scenes.json"),
) -> None:
    """Find the objects of scenes whose classes are given, and print how many are right.

    Takes about five minutes a network on one core.
    """
    console = Console()
    scenes = Scenes.read(data)
    images = len(scenes.files)
    with Progress(console=console) as progress:
        of = {file.stem: candidates(file.stem, file, scenes, progress) for file in weights}
    middle = [(centre_box(1, 1), np.ones(1)) for _ in of[weights[0].stem]]
    results = [measure(("", "", "in the middle"), of[weights[0].stem], middle, images)]
    for network, pairs in of.items():
        others = [those for name, those in of.items() if name != network]
        ways = {"own": [pairs]}
        if others:
            ways |= {"other": others, "all": [pairs, *others]}
        for name, fitted_on in ways.items():
            boxes = held_out(pairs, fitted_on, images)
            results.append(measure((network, name, "10 a pair"), pairs, boxes, images))
        for share, least in ((0.3, 0.0), (0.5, 0.0), (0.0, 0.2)):
            kept = f"score >= {least}" if least else f"{share} of the best"
            left = fewer(boxes, share, least)
            results.append(measure((network, name, kept), pairs, left, images))
    rule = Regression.fitted([one for pairs in of.values() for one in pairs])
    document = {
        "agreement": {
            "intercept": rule.intercept,
            **dict(zip(TRAITS, rule.weights.tolist(), strict=True)),
        },
        "results": [asdict(result) for result in results],
    }
    to.write_text(json.dumps(document, indent=1) + "\n")
    console.print(table(results), highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    typer.run(main)
