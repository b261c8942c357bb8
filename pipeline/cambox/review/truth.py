"""True boxes from a file: CSV, or COCO JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from cambox.errors import RequestError
from cambox.review.coco_truth import read_coco
from cambox.review.overlap import SIDES
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate

TrueBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageTruth:
    """The true boxes of one image.

    Attributes:
        boxes: (n, 4) pixels of the upright image, half-open; n may be 0.
        classes: (n,) class indices; None where the file gives no classes.
    """

    boxes: np.ndarray
    classes: np.ndarray | None


@dataclass(frozen=True)
class Truth:
    """A file's true boxes.

    Attributes:
        images: by the name that the file gives them.
        remarks: what was left out, and how classes were read.
    """

    images: Mapping[str, ImageTruth]
    remarks: tuple[str, ...] = ()
    _names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list), repr=False)

    def __post_init__(self) -> None:
        for name in self.images:
            for key in possible_keys(name):
                self._names[key].append(name)

    @property
    def keys(self) -> Sequence[str]:
        """All sample keys that some image may have."""
        return list(self._names)

    def name_of(self, key: str) -> str | None:
        """The image that a sample's key stands for, None where it is none of these.

        Raises:
            RequestError: two images of the file would have this key.
        """
        names = self._names.get(key, [])
        if len(names) > 1:
            raise RequestError(
                f"--truth: {names[0]!r} and {names[1]!r} both stand for the sample {key!r}; "
                "give each image one name"
            )
        return names[0] if names else None


def possible_keys(image: str) -> set[str]:
    """The sample keys that an image's name may stand for.

    With and without its extension; and with its dots as underscores, as ``cambox pack`` writes
    them.
    """
    path = PurePosixPath(image)
    plain = {str(path), str(path.with_suffix("")) if path.name else str(path)}
    return plain | {key.replace(".", "_") for key in plain}


def read_truth(uri: str, class_names: Sequence[str]) -> Truth:
    """Read true boxes from a path or URL.

    Args:
        uri: a file that ends in ``.json`` is COCO's format, any other a CSV with the columns
            image, x_min, y_min, x_max, y_max and perhaps class_index.
        class_names: of the classifier, by class index.

    Raises:
        RequestError: the file is missing or of neither format, or a box or class is impossible.
    """
    filesystem, path = locate(uri)
    try:
        data = from_storage(uri, lambda: filesystem.cat_file(path))
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RequestError(f"--truth: {uri} does not exist; correct the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--truth: {uri} cannot be read: {error}") from error
    truth = (
        _from_coco(uri, text, class_names)
        if uri.lower().endswith(".json")
        else _from_csv(uri, text, class_names)
    )
    boxes = [image.boxes for image in truth.images.values() if len(image.boxes)]
    if not boxes:
        raise RequestError(f"--truth: {uri} holds no box")
    if max(corners.max() for corners in boxes) <= 1:
        raise RequestError(
            f"--truth: no box of {uri} reaches beyond 1, so these are shares of the image; "
            "give pixels of the upright image"
        )
    return truth


def _from_csv(uri: str, text: str, class_names: Sequence[str]) -> Truth:
    boxes: dict[str, list[TrueBox]] = defaultdict(list)
    classes: dict[str, list[int]] = defaultdict(list)
    with_classes = False
    for where, row in _csv_rows(uri, text):
        name = (row["image"] or "").strip()
        if not name:
            raise RequestError(f"{where}: no image is named")
        boxes[name].append(_corners(where, [row[side] for side in SIDES]))
        if "class_index" in row:
            with_classes = True
            classes[name].append(_class_index(where, row["class_index"], len(class_names)))
    return Truth(
        {
            name: ImageTruth(np.array(corners), np.array(classes[name]) if with_classes else None)
            for name, corners in boxes.items()
        }
    )


def _csv_rows(uri: str, text: str) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        missing = [name for name in ("image", *SIDES) if name not in (reader.fieldnames or ())]
        if missing:
            raise RequestError(
                f"--truth: {uri}, line 1: no column {missing[0]!r}; it needs image,"
                f"{','.join(SIDES)} and may have class_index (COCO's format ends in .json)"
            )
        for row in reader:
            yield f"--truth: {uri}, line {reader.line_num}", row
    except csv.Error as error:
        raise RequestError(f"--truth: {uri} is no CSV file ({error})") from error


def _corners(where: str, sides: Sequence[object]) -> TrueBox:
    try:
        x_min, y_min, x_max, y_max = (float(str(side)) for side in sides)
    except ValueError as error:
        raise RequestError(f"{where}: {sides} are not four numbers; correct them") from error
    if not (np.isfinite([x_min, y_min, x_max, y_max]).all() and x_min < x_max and y_min < y_max):
        raise RequestError(
            f"{where}: the box {x_min:g}, {y_min:g}, {x_max:g}, {y_max:g} is empty; its minimum "
            "must be below its maximum"
        )
    return x_min, y_min, x_max, y_max


def _class_index(where: str, text: str | None, class_count: int) -> int:
    index = (text or "").strip()
    if not (index.isascii() and index.isdigit()):
        raise RequestError(f"{where}: {index!r} is no class index; use 0, 1, 2, ...")
    if int(index) >= class_count:
        raise RequestError(
            f"{where}: there is no class {index}; the output's classifier has {class_count}"
        )
    return int(index)


def _from_coco(uri: str, text: str, class_names: Sequence[str]) -> Truth:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"--truth: {uri} is no JSON ({error})") from error
    coco = read_coco(uri, document, class_names)
    return Truth(
        {
            name: ImageTruth(
                np.array(
                    [_corners(f"--truth: {uri}, {name}", entry.corners) for entry in entries]
                ).reshape(-1, 4),
                np.array([entry.class_id for entry in entries], dtype=np.int64),
            )
            for name, entries in coco.boxes.items()
        },
        coco.remarks,
    )
