"""The compiled boxes beside OpenCV and numpy, one plain step after the other: equal and quicker."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from bench.common import Images, Model, To, write_figures
from cambox.cams.boxes import find_boxes
from cambox.config import ModelSettings
from cambox.config_cam import BoxSettings, CamSettings
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.load import load_classifier
from cambox.sources.decode import decode_image
from cambox.sources.load import squash
from tests.reference import SIZES, Comparison, compare, reference_boxes, some_maps

MAX_PIXELS = 10**8
TIMED_MAPS = 1000


@dataclass(frozen=True)
class BoxTimes:
    """Of both kinds of maps what came of it, and microseconds a map at 224 x 224, one thread."""

    random: Comparison
    real: Comparison
    reference_microseconds: float
    compiled_microseconds: float


def boxes(
    images: Images,
    model: Model = '{"name": "mobilenetv2_100"}',
    maps: Annotated[int, typer.Option(min=2, help="Half of them random, half real")] = 100_000,
    to: To = None,
) -> None:
    """Whether the compiled boxes equal the plain ones, on random and real maps, and both times."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    classifier = load_classifier(ModelSettings(**json.loads(model)), torch.device("cpu"), "float32")
    files = sorted(path for path in images.iterdir() if path.is_file())
    classes = -(-maps // 2 // len(files))
    real = itertools.islice(_real_maps(classifier, files, classes), maps // 2)
    invented = track(some_maps(maps // 2, seed=0), "random maps", transient=True)
    timed, settings = some_maps(TIMED_MAPS, seed=2, shape=(7, 7)), BoxSettings()
    images_of_five = np.stack(timed).reshape(-1, 5, 7, 7)
    result = BoxTimes(
        random=compare(invented, seed=0),
        real=compare(real, seed=1),
        reference_microseconds=_microseconds(
            lambda: [reference_boxes(score_map, SIZES[0], settings) for score_map in timed]
        ),
        compiled_microseconds=_microseconds(
            lambda: [find_boxes(image, SIZES[0], settings) for image in images_of_five]
        ),
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
    write_figures(result, to)


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


def _microseconds(all_maps: Callable[[], object]) -> float:
    """Of one map; the work is that of ``TIMED_MAPS``."""
    start = time.perf_counter()
    all_maps()
    return 1e6 * (time.perf_counter() - start) / TIMED_MAPS
