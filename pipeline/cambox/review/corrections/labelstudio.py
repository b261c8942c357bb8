"""Label Studio's JSON export of tasks: what people submitted, and never what a model predicted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from cambox.errors import RequestError
from cambox.review.corrections.images import (
    CorrectedBox,
    CorrectedImage,
    ReviewFile,
    require_upright,
)

NOT_SUBMITTED = "tasks without a submitted annotation"
NO_RECTANGLE = "results that are no rectangle"
NO_LABEL = "rectangles without a label"
# The two ways of a labelling config to give rectangles labels.
_RECTANGLES = ("rectanglelabels", "rectangle", "labels")


class _Value(BaseModel):
    x: float
    y: float
    width: float
    height: float
    rotation: float = 0
    rectanglelabels: list[str] = []
    labels: list[str] = []


class _Result(BaseModel):
    id: str = ""
    type: str = ""
    value: dict[str, Any] = {}
    original_width: float | None = None
    original_height: float | None = None


class _Annotation(BaseModel):
    result: list[_Result] = []
    was_cancelled: bool | None = False
    updated_at: str = ""


class _Task(BaseModel):
    id: int | str | None = None
    data: dict[str, Any]
    annotations: list[_Annotation] = []


_TASKS: TypeAdapter[list[_Task]] = TypeAdapter(list[_Task])


def is_label_studio(entries: list[Any]) -> bool:
    """Whether a list looks like tasks."""
    return bool(entries) and all(
        isinstance(one, dict) and isinstance(one.get("data"), dict) for one in entries
    )


def from_label_studio(uri: str, entries: list[Any]) -> ReviewFile:
    """Of several annotations of a task the last one counts; tasks without any are not reviewed.

    Raises:
        RequestError: it is not Label Studio's, or has rotated boxes.
    """
    try:
        tasks = _TASKS.validate_python(entries)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{uri} is not Label Studio's: {place}: {first['msg']}") from error
    left_out: Counter[str] = Counter()
    images = []
    for number, task in enumerate(tasks):
        given = [one for one in task.annotations if not one.was_cancelled]
        if not given:
            left_out[NOT_SUBMITTED] += 1
            continue
        where = f"task {number if task.id is None else task.id}"
        last = max(given, key=lambda one: one.updated_at)
        images.append(_image(uri, task, where, last, left_out))
    return ReviewFile("Label Studio", tuple(images), left_out=left_out)


def _image(
    uri: str, task: _Task, where: str, annotation: _Annotation, left_out: Counter[str]
) -> CorrectedImage:
    # A project of another make has its image under a name of its own.
    texts = {name: value for name, value in task.data.items() if isinstance(value, str)}
    name = texts.get("image") or next(iter(texts.values()), "")
    boxes, sizes = [], []
    for result in _with_labels(annotation.result):
        if result.type not in _RECTANGLES or "width" not in result.value:
            left_out[NO_RECTANGLE] += 1
            continue
        try:
            value = _Value.model_validate(result.value)
        except ValidationError as error:
            raise RequestError(f"{uri}: {where}: a rectangle has no proper place") from error
        require_upright(f"{uri}: {where}", value.rotation, "Label Studio")
        if not (result.original_width and result.original_height):
            raise RequestError(f"{uri}: {where}: a rectangle does not say its image's size")
        sizes.append((result.original_width, result.original_height))
        across, down = sizes[0][0] / 100, sizes[0][1] / 100
        corners = (
            value.x * across,
            value.y * down,
            (value.x + value.width) * across,
            (value.y + value.height) * down,
        )
        labels = value.rectanglelabels or value.labels
        if not labels:
            left_out[NO_LABEL] += 1
        boxes += [CorrectedBox(corners, label) for label in labels]
    return CorrectedImage(
        name=name,
        where=where,
        shard=texts.get("shard"),
        key=texts.get("key"),
        size=sizes[0] if sizes else None,
        boxes=tuple(boxes),
    )


def _with_labels(results: list[_Result]) -> list[_Result]:
    """Of a region that has a rectangle and its labels as two results only that with the labels."""
    labelled = {one.id for one in results if one.value.get("labels") and "width" in one.value}
    return [one for one in results if not (one.type == "rectangle" and one.id in labelled)]
