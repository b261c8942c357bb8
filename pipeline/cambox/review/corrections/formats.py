"""Which kind of review file it is; COCO's and the gallery's own. Others have files of their own."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from cambox.errors import RequestError
from cambox.review.corrections.cvat import CVAT_NAME, from_cvat
from cambox.review.corrections.images import CorrectedBox, CorrectedImage, ReviewFile
from cambox.review.corrections.labelstudio import from_label_studio, is_label_studio
from cambox.sources.retry import read_whole

GALLERY_FORMAT = "cambox-review-1"
CROWD = "boxes of crowds"
_TAKEN = f"Label Studio's JSON, {CVAT_NAME}, COCO JSON, or a review saved in the gallery"

Model = TypeVar("Model", bound=BaseModel)


def read_review(uri: str) -> ReviewFile:
    """Read a review file from a path or URL, and see from its content what wrote it.

    Raises:
        RequestError: it is missing, of no kind that is read, or has something that no row can hold.
    """
    try:
        data = read_whole(uri)
    except FileNotFoundError as error:
        raise RequestError(f"{uri} does not exist; correct the path") from error
    except OSError as error:
        raise RequestError(f"{uri} cannot be read: {error}") from error
    if data.startswith(b"PK"):
        raise RequestError(f"{uri} is a zip archive; unpack it and name the file in it")
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return from_cvat(uri, data)
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise RequestError(f"{uri} is neither JSON nor XML ({error}); give {_TAKEN}") from error
    if isinstance(document, list):
        return _from_list(uri, document)
    if isinstance(document, dict) and str(document.get("format", "")).startswith("cambox-review"):
        return _from_gallery(uri, document)
    if isinstance(document, dict) and {"images", "annotations"} <= document.keys():
        return _from_coco(uri, document)
    raise RequestError(f"{uri} is no review that is read; give {_TAKEN}")


def _from_list(uri: str, entries: list[Any]) -> ReviewFile:
    if is_label_studio(entries):
        return from_label_studio(uri, entries)
    first = entries[0] if entries and isinstance(entries[0], dict) else {}
    if "bbox" in first:
        raise RequestError(
            f"{uri} is a list of COCO results, which says of no image that it was reviewed; "
            "export a COCO dataset, with images, annotations and categories"
        )
    raise RequestError(
        f"{uri} is no list of Label Studio's tasks; export them there as JSON, and not as JSON-MIN"
    )


class _Image(BaseModel):
    id: int | str
    file_name: str = Field(min_length=1)
    width: float | None = None
    height: float | None = None
    shard: str | None = None
    key: str | None = None


class _Annotation(BaseModel):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    attributes: dict[str, Any] = {}


class _Category(BaseModel):
    id: int
    name: str


class _Coco(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def _from_coco(uri: str, document: dict[str, Any]) -> ReviewFile:
    """All images of the file count as reviewed, also those without a box."""
    coco = parsed(uri, "COCO's format", _Coco, document)
    names = {category.id: category.name for category in coco.categories}
    left_out: Counter[str] = Counter()
    boxes: dict[int | str, list[CorrectedBox]] = defaultdict(list)
    ids = {image.id for image in coco.images}
    for number, one in enumerate(coco.annotations):
        if one.image_id not in ids or one.category_id not in names:
            raise RequestError(
                f"{uri}: annotations.{number} is of image {one.image_id!r} and category "
                f"{one.category_id}, and the file does not have both"
            )
        if one.iscrowd:
            left_out[CROWD] += 1
            continue
        x, y, width, height = one.bbox
        corners = (x, y, x + width, y + height)
        boxes[one.image_id].append(CorrectedBox(corners, names[one.category_id]))
    images = [
        CorrectedImage(
            name=image.file_name,
            where=f"image {image.id}",
            shard=image.shard,
            key=image.key,
            size=(image.width, image.height) if image.width and image.height else None,
            boxes=tuple(boxes[image.id]),
        )
        for image in coco.images
    ]
    return ReviewFile("COCO", tuple(images), left_out=left_out)


class _JudgedBox(BaseModel):
    class_id: int | None = None
    class_name: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    verdict: Literal["accept", "reject", "wrong_class"] | None = None
    to_class: str | None = None

    @property
    def left(self) -> CorrectedBox | None:
        """What the verdict leaves of it."""
        corners = (self.x_min, self.y_min, self.x_max, self.y_max)
        if self.verdict == "reject":
            return None
        if self.verdict == "wrong_class":
            return CorrectedBox(corners, self.to_class)
        judged = self.verdict == "accept"
        return CorrectedBox(corners, self.class_name, judged, self.class_id)


class _JudgedRow(BaseModel):
    shard: str
    key: str
    width: float | None = None
    height: float | None = None
    verdict: Literal["accept", "reject", "wrong_class"] | None = None
    boxes: list[_JudgedBox]

    @property
    def size(self) -> tuple[float, float] | None:
        return (self.width, self.height) if self.width and self.height else None


class _Gallery(BaseModel):
    format: Literal["cambox-review-1"]
    rows: list[_JudgedRow]


def _from_gallery(uri: str, document: dict[str, Any]) -> ReviewFile:
    gallery = parsed(uri, f"a gallery's review ({GALLERY_FORMAT})", _Gallery, document)
    images = [
        CorrectedImage(
            name=row.key,
            where=f"rows.{number}",
            shard=row.shard,
            key=row.key,
            size=row.size,
            boxes=tuple(left for box in row.boxes if (left := box.left) is not None),
            lacking=not row.boxes and row.verdict != "accept",
        )
        for number, row in enumerate(gallery.rows)
    ]
    return ReviewFile("gallery", tuple(images), adds_boxes=False)


def parsed(uri: str, called: str, model: type[Model], document: Any) -> Model:
    """A document as a model of it.

    Raises:
        RequestError: it is none.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{uri} is not {called}: {place}: {first['msg']}") from error
