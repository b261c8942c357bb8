"""COCO's annotation format, as far as true boxes need it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cambox.errors import RequestError


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


@dataclass(frozen=True)
class CocoBox:
    """x_min, y_min, x_max, y_max in pixels, half-open, and the class index."""

    corners: tuple[float, float, float, float]
    class_id: int


@dataclass(frozen=True)
class CocoTruth:
    """Boxes by file name, also for images without any; and what a person should know."""

    boxes: Mapping[str, Sequence[CocoBox]]
    remarks: tuple[str, ...]


def read_coco(uri: str, document: object, class_names: Sequence[str]) -> CocoTruth:
    """Read COCO's ``images``, ``annotations`` (``bbox`` is x, y, width, height) and ``categories``.

    A category is the class of the same name; where no category has the name of a class, its id is
    the class index. Crowds, and boxes of categories that are no class, are left out and counted.

    Raises:
        RequestError: the document is of another format, or a category's class is not clear.
    """
    try:
        coco = _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"--truth: {uri} is not COCO's format: {place}: {first['msg']}"
        ) from error
    names = {image.id: image.file_name for image in coco.images}
    classes, remarks = _classes(uri, coco, class_names)
    boxes: dict[str, list[CocoBox]] = {name: [] for name in names.values()}
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
            boxes[name].append(CocoBox((x, y, x + width, y + height), class_id))
    remarks += [f"{count} {what} are left out" for what, count in left_out.items()]
    return CocoTruth(boxes, tuple(remarks))


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
