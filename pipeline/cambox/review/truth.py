"""True boxes from a file: CSV, or COCO JSON as far as true boxes need it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from cambox.boxes import Boxes
from cambox.errors import RequestError
from cambox.output.rows import SIDES
from cambox.sources.keys import one_spelling
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate

UNKNOWN_CLASS = -1
"""The class of a true box where none is known."""

_Listed = dict[str, list[tuple[list[float], int]]]
"""Corners and class of the true boxes, by the image's name."""


@dataclass(frozen=True)
class Truth:
    """A file's true boxes.

    Attributes:
        images: by the name that the file gives them: pixels of the upright image, perhaps none.
        remarks: what was left out, and how classes were read.
    """

    images: Mapping[str, Boxes]
    remarks: tuple[str, ...] = ()

    @property
    def says_classes(self) -> bool:
        """Whether the file gives its boxes classes; it does so for all or for none."""
        return any((boxes.class_id != UNKNOWN_CLASS).any() for boxes in self.images.values())

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """By a sample's key in its one spelling: the image's names.

        They stand with and without the extension, and with ``_`` for dots, as pack writes them.
        """
        names = defaultdict(list)
        for name in self.images:
            path = PurePosixPath(one_spelling(name))
            plain = {str(path), str(path.with_suffix("")) if path.name else str(path)}
            for key in plain | {key.replace(".", "_") for key in plain}:
                names[key].append(name)
        return names

    @property
    def keys(self) -> Sequence[str]:
        """All sample keys that some image may have, in their one spelling."""
        return list(self._names)

    def name_of(self, key: str) -> str | None:
        """The image that a sample's key stands for, None where it is none of these.

        Raises:
            RequestError: two images of the file would have this key.
        """
        names = self._names.get(one_spelling(key), [])
        if len(names) > 1:
            raise RequestError(
                f"--truth: {names[0]!r} and {names[1]!r} both stand for the sample {key!r}; "
                "give each image one name"
            )
        return names[0] if names else None


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
        text = from_storage(uri, lambda: filesystem.cat_file(path)).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RequestError(f"--truth: {uri} does not exist; correct the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--truth: {uri} cannot be read: {error}") from error
    read = _from_coco if uri.lower().endswith(".json") else _from_csv
    listed, remarks = read(uri, text, class_names)
    images = {
        name: Boxes.of([corners for corners, _ in boxes], class_id=[which for _, which in boxes])
        for name, boxes in listed.items()
    }
    every = Boxes.joined(images.values())
    if not len(every):
        raise RequestError(f"--truth: {uri} holds no box")
    if every.corners.max() <= 1:
        raise RequestError(
            f"--truth: no box of {uri} reaches beyond 1, so these are shares of the image; "
            "give pixels of the upright image"
        )
    return Truth(images, tuple(remarks))


def _from_csv(uri: str, text: str, class_names: Sequence[str]) -> tuple[_Listed, list[str]]:
    listed: _Listed = defaultdict(list)
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
                class_id = _class_index(where, row["class_index"], len(class_names))
            listed[name].append((corners, class_id))
    except csv.Error as error:
        raise RequestError(f"--truth: {uri} is no CSV file ({error})") from error
    return listed, []


def _corners(where: str, sides: Sequence[object]) -> list[float]:
    try:
        x_min, y_min, x_max, y_max = corners = [float(str(side)) for side in sides]
    except ValueError as error:
        raise RequestError(f"{where}: {sides} are not four numbers; correct them") from error
    if not (np.isfinite(corners).all() and x_min < x_max and y_min < y_max):
        raise RequestError(
            f"{where}: the box {x_min:g}, {y_min:g}, {x_max:g}, {y_max:g} is empty; its minimum "
            "must be below its maximum"
        )
    return corners


def _class_index(where: str, text: str | None, class_count: int) -> int:
    index = (text or "").strip()
    if not (index.isascii() and index.isdigit()):
        raise RequestError(f"{where}: {index!r} is no class index; use 0, 1, 2, ...")
    if int(index) >= class_count:
        raise RequestError(
            f"{where}: there is no class {index}; the output's classifier has {class_count}"
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


def _from_coco(uri: str, text: str, class_names: Sequence[str]) -> tuple[_Listed, list[str]]:
    """``bbox`` is x, y, width, height. Crowds, and what is of no class, are left out, and counted.

    An image without any box is listed, too.
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
    listed: _Listed = {name: [] for name in names.values()}
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
    return listed, remarks + [f"{count} {what} are left out" for what, count in left_out.items()]


def _classes(
    uri: str, coco: _Document, class_names: Sequence[str]
) -> tuple[dict[int, int], list[str]]:
    """The class index of each category, the class of the same name, and how it was found.

    Where no category has the name of a class, its id is the class index.
    """
    categories = {category.id: category.name for category in coco.categories}
    if not set(categories.values()) & set(class_names):
        used = {annotation.category_id for annotation in coco.annotations} | set(categories)
        inside = {number: number for number in used if 0 <= number < len(class_names)}
        return inside, ["no category has the name of a class, so category ids are class indices"]
    classes: dict[int, int] = {}
    for number, name in categories.items():
        same = [index for index, other in enumerate(class_names) if other == name]
        if number in same or len(same) == 1:
            classes[number] = number if number in same else same[0]
        elif same:
            raise RequestError(
                f"--truth: {uri}: category {number} is called {name!r}, and so are the classes "
                f"{', '.join(map(str, same))}; give it the id of one of them"
            )
    return classes, []
