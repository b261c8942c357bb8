"""The two kinds of file that true boxes come in: CSV, and COCO JSON as far as they need it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from cambox.errors import RequestError, some_of
from cambox.output.rows import SIDES

UNKNOWN_CLASS = -1
"""The class of a true box where none is known."""

NO_SIZE = "true boxes have no width or no height and are left out"
NO_CLASS = "true boxes of categories that are no class of the output are left out"

Listed = dict[str, list[tuple[list[float], int]]]
"""Corners and class of the true boxes, by the image's name."""


def from_csv(uri: str, text: str, class_names: Sequence[str] | None) -> tuple[Listed, list[str]]:
    listed: Listed = defaultdict(list)
    left_out: Counter[str] = Counter()
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        missing = [name for name in ("image", *SIDES) if name not in (reader.fieldnames or ())]
        if missing:
            raise RequestError(
                f"--truth: {uri}, line 1: no column {missing[0]!r}; it needs image,"
                f"{','.join(SIDES)} and may have class_index (COCO's format ends in .json)"
            )
        for row in reader:
            where = f"--truth: {uri}, line {reader.line_num}"
            name = (row["image"] or "").strip()
            if not name:
                raise RequestError(f"{where}: no image is named")
            corners = _corners(where, [row[side] for side in SIDES])
            class_id = UNKNOWN_CLASS
            if "class_index" in row:
                class_id = _class_index(where, row["class_index"], class_names)
            # An image whose only box has no size is one without boxes, and still listed.
            boxes = listed[name]
            if _has_size(corners):
                boxes.append((corners, class_id))
            else:
                left_out[NO_SIZE] += 1
    except csv.Error as error:
        raise RequestError(f"--truth: {uri} is no CSV file ({error})") from error
    return listed, _left_out(left_out)


def _left_out(counts: Mapping[str, int]) -> list[str]:
    return [f"{count} {what}" for what, count in counts.items()]


def _corners(where: str, sides: Sequence[object]) -> list[float]:
    try:
        x_min, y_min, x_max, y_max = corners = [float(str(side)) for side in sides]
    except ValueError as error:
        raise RequestError(f"{where}: {sides} are not four numbers; correct them") from error
    if not (np.isfinite(corners).all() and x_min <= x_max and y_min <= y_max):
        raise RequestError(
            f"{where}: the box {x_min:g}, {y_min:g}, {x_max:g}, {y_max:g} is none; its minimum "
            "must be below its maximum"
        )
    return corners


def _has_size(corners: Sequence[float]) -> bool:
    x_min, y_min, x_max, y_max = corners
    return x_min < x_max and y_min < y_max


def _class_index(where: str, text: str | None, class_names: Sequence[str] | None) -> int:
    index = (text or "").strip()
    if not (index.isascii() and index.isdigit()):
        raise RequestError(f"{where}: {index!r} is no class index; use 0, 1, 2, ...")
    if class_names is not None and int(index) >= len(class_names):
        raise RequestError(
            f"{where}: there is no class {index}; the output's classifier has {len(class_names)}"
        )
    return int(index)


class _Image(BaseModel):
    id: int | str
    file_name: str = Field(min_length=1)


class _Annotation(BaseModel):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(BaseModel):
    id: int
    name: str


class _Document(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


def from_coco(uri: str, text: str, class_names: Sequence[str] | None) -> tuple[Listed, list[str]]:
    """``bbox`` is x, y, width, height.

    Crowds, boxes of no size, and what is of no class are left out, and counted. An image without
    any box is listed, too.
    """
    coco = _document(uri, text)
    names = {image.id: image.file_name for image in coco.images}
    classes, remarks = _classes(uri, coco, class_names)
    listed: Listed = {name: [] for name in names.values()}
    left_out: Counter[str] = Counter()
    no_class: set[int] = set()
    for annotation in coco.annotations:
        name = names.get(annotation.image_id)
        if name is None:
            raise RequestError(
                f"--truth: {uri}: an annotation has image_id {annotation.image_id!r}, which is "
                "none of its images"
            )
        class_id = classes.get(annotation.category_id)
        if annotation.iscrowd:
            left_out["crowds are left out"] += 1
            continue
        if class_id is None:
            no_class.add(annotation.category_id)
            left_out[NO_CLASS] += 1
            continue
        x, y, width, height = annotation.bbox
        corners = _corners(f"--truth: {uri}, {name}", (x, y, x + width, y + height))
        if _has_size(corners):
            listed[name].append((corners, class_id))
        else:
            left_out[NO_SIZE] += 1
    remarks += _left_out(left_out)
    if no_class:
        called = {category.id: category.name for category in coco.categories}
        which = [called.get(number, str(number)) for number in sorted(no_class)]
        remarks.append(f"categories that are no class of the output: {some_of(which)}")
    return listed, remarks


def ids_of_coco(
    uri: str, text: str, class_names: Sequence[str]
) -> tuple[dict[str, int | str], dict[int, int]]:
    """The id of each image by its file name, and of each category by the class of its name.

    Raises:
        RequestError: it is not COCO's format, or none of its categories has the name of a class.
    """
    coco = _document(uri, text)
    classes, _ = _classes(uri, coco, class_names)
    # The first of several categories that are one class but for upper and lower case.
    categories = {index: number for number, index in reversed(classes.items())}
    return {image.file_name: image.id for image in coco.images}, categories


def _document(uri: str, text: str) -> _Document:
    try:
        return _Document.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise RequestError(f"--truth: {uri} is no JSON ({error})") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"--truth: {uri} is not COCO's format: {place}: {first['msg']}"
        ) from error


def _classes(
    uri: str, coco: _Document, class_names: Sequence[str] | None
) -> tuple[dict[int, int], list[str]]:
    """The class index of each category, the class of the same name, and how it was found.

    Upper and lower case are the same where no class is called just so. Where the categories or the
    classes have no names but numbers, a category's id is the class index.

    Raises:
        RequestError: none of the categories has the name of a class, or one that several have.
    """
    categories = {category.id: category.name for category in coco.categories}
    used = {annotation.category_id for annotation in coco.annotations} | set(categories)
    if class_names is None:
        return {number: number for number in used}, []
    if _are_numbers(categories.values()) or _are_numbers(class_names):
        inside = {number: number for number in used if 0 <= number < len(class_names)}
        return inside, ["no names to match categories by, so category ids are class indices"]
    exact, folded = defaultdict(list), defaultdict(list)
    for index, name in enumerate(class_names):
        exact[name].append(index)
        folded[_folded(name)].append(index)
    classes: dict[int, int] = {}
    other_case: list[str] = []
    for number, name in categories.items():
        same = exact.get(name) or folded.get(_folded(name), [])
        if len(same) > 1 and number not in same:
            raise RequestError(
                f"--truth: {uri}: category {number} is called {name!r}, and so are the classes "
                f"{', '.join(map(str, same))}; give it the id of one of them"
            )
        if same:
            classes[number] = number if number in same else same[0]
            if name not in exact:
                other_case.append(name)
    if not classes:
        called = some_of(list(categories.values()))
        raise RequestError(
            f"--truth: {uri}: none of its categories ({called}) has the name of a class of the "
            f"output ({some_of(class_names)}); give them these names, or use a CSV with a column "
            "class_index"
        )
    remark = f"categories matched without regard to case: {some_of(other_case)}"
    return classes, [remark] if other_case else []


def _folded(name: str) -> str:
    return name.strip().casefold()


def _are_numbers(names: Iterable[str]) -> bool:
    """Whether names say nothing; so do none at all."""
    return all(name.strip().isdigit() for name in names)
