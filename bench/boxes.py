"""The compiled boxes beside OpenCV and numpy, one plain step after the other: equal and quicker."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from cambox.cams import BoxRule, boxes_from_maps
from cambox.cams.upsample import upsample
from cambox.config import CamSettings, ModelSettings
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier, load_classifier
from cambox.sources.decode import decode_image
from cambox.sources.squash import squash

MAX_PIXELS = 10**8
SIZES = ((224, 224), (112, 112))
TIMED_MAPS = 1000
# left, top, right, bottom as shares, score, component, touches the edge, mean outside
ReferenceBox = tuple[float, float, float, float, float, int, bool, float]


@dataclass(frozen=True)
class Comparison:
    """What came of comparing.

    Attributes:
        boxes: that the reference found.
        different: maps of which any box has another extent, component or edge.
        largest_score_difference: of the means inside and outside.
    """

    maps: int
    boxes: int
    different: int
    largest_score_difference: float


@dataclass(frozen=True)
class BoxTimes:
    """Of both kinds of maps what came of it, and microseconds a map at 224 x 224, one thread."""

    random: Comparison
    real: Comparison
    reference_microseconds: float
    compiled_microseconds: float


def reference_boxes(
    score_map: np.ndarray, size: tuple[int, int], rule: BoxRule
) -> list[ReferenceBox]:
    """The boxes of a map that varies, as anyone would write it."""
    height, width = size
    values = upsample(score_map, size, rule.interpolation).reshape(size)
    values = (values - values.min()) / (values.max() - values.min())
    cut = np.float32(rule.threshold) * np.percentile(values, rule.percentile)
    mask = (values > cut).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = [row for row in stats[1:count].tolist() if row[4] >= rule.min_area * values.size]
    large.sort(key=lambda row: -row[4])
    boxes = []
    for component, (left, top, across, down, _) in enumerate(large[: rule.max_boxes]):
        inside = np.zeros(size, bool)
        inside[top : top + down, left : left + across] = True
        boxes.append(
            (
                left / width,
                top / height,
                (left + across) / width,
                (top + down) / height,
                float(values[inside].mean(dtype=np.float64)),
                component,
                left == 0 or top == 0 or left + across == width or top + down == height,
                float(values[~inside].mean(dtype=np.float64)) if not inside.all() else 0.0,
            )
        )
    return boxes


def some_maps(count: int, seed: int, shape: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Maps that vary: noise, rectified noise, and noise in steps, of several shapes."""
    generator = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    while len(made) < count:
        size = shape or tuple(generator.choice([(7, 7), (7, 7), (14, 14), (28, 28), (5, 9)]))
        values = generator.normal(size=size).astype(np.float32)
        kind = len(made) % 4
        if kind == 1:
            values = np.maximum(values, 0)
        elif kind == 2:
            values = np.round(2 * values)
        elif kind == 3:
            values = cv2.GaussianBlur(values, (0, 0), 1.0)
        if np.ptp(values) > 1e-3:
            made.append(values)
    return made


def compare(maps: Iterable[np.ndarray], seed: int) -> Comparison:
    """Compare both ways on each map, under a rule of its own."""
    generator = np.random.default_rng(seed)
    count = found = different = 0
    worst = 0.0
    for score_map in maps:
        size = SIZES[count % len(SIZES)]
        rule = BoxRule(
            threshold=float(generator.uniform(0.05, 0.95)),
            percentile=float(generator.choice([90, 90, 100, generator.uniform(50, 100)])),
            max_boxes=int(generator.choice([1, 3, 100])),
            min_area=float(generator.choice([0, 0.01])),
        )
        expected = reference_boxes(score_map, size, rule)
        (given,) = boxes_from_maps(torch.from_numpy(score_map)[None], size, rule)
        places = [
            (box.x_min, box.y_min, box.x_max, box.y_max, box.component, box.touches_edge)
            for box in given.boxes
        ]
        count += 1
        found += len(expected)
        if places != [(*box[:4], *box[5:7]) for box in expected]:
            different += 1
            continue
        for box, reference in zip(given.boxes, expected, strict=True):
            worst = max(worst, abs(box.score - reference[4]), abs(box.outside - reference[7]))
    return Comparison(count, found, different, worst)


def boxes(
    images: Annotated[Path, typer.Argument(help="Folder of images, for the real maps")],
    model: Annotated[str, typer.Option(help="Settings of the model, as JSON")] = (
        '{"name": "mobilenetv2_100"}'
    ),
    maps: Annotated[int, typer.Option(min=2, help="Half of them random, half real")] = 100_000,
    to: Annotated[Path | None, typer.Option(help="Write the figures there, as JSON")] = None,
) -> None:
    """Whether the compiled boxes equal the plain ones, on random and real maps, and both times."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    classifier = load_classifier(ModelSettings(**json.loads(model)), torch.device("cpu"), "float32")
    files = sorted(path for path in images.iterdir() if path.is_file())
    classes = -(-maps // 2 // len(files))
    real = itertools.islice(_real_maps(classifier, files, classes), maps // 2)
    invented = track(some_maps(maps // 2, seed=0), "random maps", transient=True)
    result = BoxTimes(
        random=compare(invented, seed=0),
        real=compare(real, seed=1),
        reference_microseconds=_microseconds(compiled=False),
        compiled_microseconds=_microseconds(compiled=True),
    )
    console = Console()
    for name, one in (("random", result.random), ("real", result.real)):
        console.print(
            f"{one.maps} {name} maps, {one.boxes} boxes: {one.different} maps differ, scores by "
            f"at most {one.largest_score_difference:.1e}"
        )
    console.print(
        f"a map takes {result.reference_microseconds:.0f} us plainly, "
        f"{result.compiled_microseconds:.0f} compiled"
    )
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(asdict(result), indent=1) + "\n")


def _real_maps(classifier: Classifier, files: list[Path], classes: int) -> Iterator[np.ndarray]:
    """The maps of the likeliest classes of each photograph."""
    maker = MapMaker(CamSettings(), classifier)
    size = classifier.preprocessing
    most = min(classes, classifier.class_count)
    for file in track(files, "real maps", transient=True):
        image = squash(decode_image(file.read_bytes(), MAX_PIXELS), size.height, size.width)
        with torch.inference_mode():
            scores = classifier.scores(image[None])
            yield from maker.maps(scores, scores.logits.topk(most).indices)[0].numpy()


def _microseconds(compiled: bool) -> float:
    """Of a map at 224 x 224, with the default rule."""
    maps, rule = some_maps(TIMED_MAPS, seed=2, shape=(7, 7)), BoxRule()
    stacked = torch.from_numpy(np.stack(maps)).view(-1, 5, 7, 7)
    start = time.perf_counter()
    if compiled:
        for image in stacked:
            boxes_from_maps(image, SIZES[0], rule)
    else:
        for score_map in maps:
            reference_boxes(score_map, SIZES[0], rule)
    return 1e6 * (time.perf_counter() - start) / len(maps)
