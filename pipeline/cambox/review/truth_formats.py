"""The formats of files with true boxes: CSV, and COCO's, as far as true boxes need it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cambox.boxes import Boxes
from cambox.errors import RequestError
from cambox.output.rows import SIDES

UNKNOWN_CLASS = -1
"""The class of a true box where none is known."""

Images = dict[str, Boxes]
"""True boxes by the image's name, in pixels of the upright image."""
_Corners = tuple[float, float, float, float]


def from_csv(uri: str, text: str, class_names: Sequence[str]) -> tuple[Images, tuple[str, ...]]:
    """Read the columns image, x_min, y_min, x_max, y_max and perhaps class_index.

    Returns:
        Boxes by image, and what a person should know.

    Raises:
        RequestError: a column is missing, or a box or class is impossible.
    """
    listed: dict[str, list[tuple[_Corners, int]]] = defaultdict(list)
    for where, row in _csv_rows(uri, text):
        name = (row["image"] or "").strip()
        if not name:
            raise RequestError(f"{where}: no image is named")
        corners = _corners(where, [row[side] for side in SIDES])
        class_id = UNKNOWN_CLASS
        if "class_index" in row:
            class_id = _class_index(where, row["class_index"], len(class_names))
        listed[name].append((corners, class_id))
    return _images(listed), ()


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


def _corners(where: str, sides: Sequence[object]) -> _Corners:
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


def _images(listed: Mapping[str, Sequence[tuple[_Corners, int]]]) -> Images:
    return {
        name: Boxes.of([corners for corners, _ in boxes], class_id=[which for _, which in boxes])
        for name, boxes in listed.items()
    }


class _Entry(BaseModel):
    # The format has many more fields, and people add their own.
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Image(_Entry):
    id: int | str
    file_name: str = Field(min_length=1)


class _Annotation(_Entry):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(_Entry):
    id: int
    name: str


class _Document(_Entry):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


def from_coco(uri: str, text: str, class_names: Sequence[str]) -> tuple[Images, tuple[str, ...]]:
    """Read COCO's ``images``, ``annotations`` (``bbox`` is x, y, width, height) and ``categories``.

    A category is the class of the same name; where no category has the name of a class, its id is
    the class index. Crowds, and boxes of categories that are no class, are left out and counted.

    Returns:
        Boxes by image, also for images without any, and what a person should know.

    Raises:
        RequestError: the document is of another format, a box is impossible, or a category's
            class is not clear.
    """
    try:
        coco = _Document.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise RequestError(f"--truth: {uri} is no JSON ({error})") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"--truth: {uri} is not COCO's format: {place}: {first['msg']}"
        ) from error
    names = {image.id: image.file_name for image in coco.images}
    classes, remarks = _classes(uri, coco, class_names)
    listed: dict[str, list[tuple[_Corners, int]]] = {name: [] for name in names.values()}
    left_out: Counter[str] = Counter()
    for annotation in coco.annotations:
        name = names.get(annotation.image_id)
        if name is None:
            raise RequestError(
                f"--truth: {uri}: an annotation has image_id {annotation.image_id!r}, which is "
                "none of its images"
            )
        class_id = classes.get(annotation.category_id)
        if annotation.iscrowd:
            left_out["crowds"] += 1
        elif class_id is None:
            left_out["true boxes of categories that are no class of the output"] += 1
        else:
            x, y, width, height = annotation.bbox
            corners = _corners(f"--truth: {uri}, {name}", (x, y, x + width, y + height))
            listed[name].append((corners, class_id))
    remarks += [f"{count} {what} are left out" for what, count in left_out.items()]
    return _images(listed), tuple(remarks)


def _classes(
    uri: str, coco: _Document, class_names: Sequence[str]
) -> tuple[dict[int, int], list[str]]:
    """The class index of each category, and how it was found."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(class_names):
        indices[name].append(index)
    categories = {category.id: category.name for category in coco.categories}
    if not any(name in indices for name in categories.values()):
        used = {annotation.category_id for annotation in coco.annotations} | set(categories)
        inside = {number: number for number in used if 0 <= number < len(class_names)}
        return inside, ["no category has the name of a class, so category ids are class indices"]
    classes: dict[int, int] = {}
    for number, name in categories.items():
        same = indices.get(name, [])
        if number in same:
            classes[number] = number
        elif len(same) == 1:
            classes[number] = same[0]
        elif same:
            raise RequestError(
                f"--truth: {uri}: category {number} is called {name!r}, and so are the classes "
                f"{', '.join(map(str, same))}; give it the id of one of them"
            )
    return classes, []
