"""The one place that draws: boxes with their labels on a picture, or a heat map over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cambox.boxes import Boxes, iou
from cambox.output.rows import SIDES, StoredMap
from cambox.review.palette import INK, Colour, class_colour, heat_colours

Picture = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Frame = tuple[int, int, int, int]

_WHITE: Colour = (255, 255, 255)
_DASH = 7
_LABEL_PADDING = 4


def fit_text(text: str, font: Font, width: float) -> str:
    """The text, or as much of its beginning as fits into ``width`` pixels with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _frames(boxes: Boxes, scale: tuple[float, float], panel: Picture) -> list[_Frame]:
    """The boxes in whole pixels of the panel, at least one pixel a side and inside it."""
    height, width = panel.shape[:2]
    sides = np.rint(boxes.scaled(*scale).corners).astype(int)
    low = np.clip(sides[:, :2], 0, (width - 1, height - 1))
    high = np.minimum(np.maximum(sides[:, 2:], low + 1), (width, height))
    return [tuple(frame) for frame in np.concatenate([low, high], axis=1).tolist()]


def _draw_frame(
    panel: Picture, frame: _Frame, colour: Colour, thickness: int, dashed: bool
) -> None:
    """Draw the frame's border in place, inwards, so that one at the panel's edge is whole."""
    left, top, right, bottom = frame
    window = panel[top:bottom, left:right]
    rows, columns = np.ogrid[: bottom - top, : right - left]
    rows, columns = np.minimum(rows, rows[::-1]), np.minimum(columns, columns[:, ::-1])
    depth = np.minimum(rows, columns)
    # Dashes are counted along the nearer side, from its end, so that corners match.
    drawn = (np.maximum(rows, columns) // _DASH % 2 == 0) | (not dashed)
    window[drawn & (depth < thickness + 1)] = INK
    window[drawn & (depth < thickness)] = colour


def _draw_labels(
    panel: Picture,
    frames: Sequence[_Frame],
    labels: Sequence[str],
    scores: np.ndarray,
    colours: Mapping[str, Colour],
    font: Font,
) -> Picture:
    image = Image.fromarray(panel)
    draw = ImageDraw.Draw(image)
    ascent, descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (11, 0)
    height = ascent + descent + _LABEL_PADDING
    taken = np.zeros((0, 4))
    for (left, top, _, _), label, score in zip(frames, labels, scores, strict=True):
        said = label if np.isnan(score) else f"{label} {score:.2f}"
        text = fit_text(said, font, image.width - 2 * _LABEL_PADDING)
        width = int(np.ceil(font.getlength(text))) + 2 * _LABEL_PADDING
        x = max(0, min(left, image.width - width))
        # Above the box where there is room, else inside it; then down past other labels.
        y = top - height if top >= height else top
        while iou(np.array([x, y, x + width, y + height]), taken).any():
            y += 1
        y = max(0, min(y, image.height - height))
        taken = np.vstack([taken, (x, y, x + width, y + height)])
        colour = colours[label]
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 120
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        ink = INK if bright else _WHITE
        draw.text((x + _LABEL_PADDING, y + _LABEL_PADDING // 2), text, fill=ink, font=font)
    return np.asarray(image)


def draw_boxes(
    image: Picture,
    size: tuple[int, int],
    boxes: Boxes,
    class_names: Sequence[str],
    true_boxes: Boxes,
    colours: Mapping[str, Colour],
    font: Font,
    labels: bool = True,
) -> Picture:
    """A picture with pseudo boxes (solid, with label and score) and true boxes (dashed, white).

    Args:
        image: (H, W, 3) uint8 RGB.
        size: width and height of the result in pixels.
        boxes, true_boxes: in pixels of ``image``; a score of NaN is not written.
        class_names: by the boxes' class ids.
        colours: by the names of classes.
        labels: write label and score.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    panel = _resized(image, size)
    scale = (size[0] / image.shape[1], size[1] / image.shape[0])
    thickness = max(2, round(min(size) / 90))
    frames = _frames(boxes, scale, panel)
    names = [class_names[class_id] for class_id in boxes.class_id]
    for frame, name in zip(frames, names, strict=True):
        _draw_frame(panel, frame, colours[name], thickness, dashed=False)
    for frame in _frames(true_boxes, scale, panel):
        _draw_frame(panel, frame, _WHITE, 1, dashed=True)
    return _draw_labels(panel, frames, names, boxes.score, colours, font) if labels else panel


def draw(
    image: Picture,
    objects: Sequence[Mapping[str, Any]] = (),
    score_map: Mapping[str, Any] | None = None,
    side: int | None = None,
    labels: bool = True,
    offset: float = 0.0,
) -> Picture:
    """A picture with the boxes of a row, over the picture or under one of the row's maps.

    Classes have the same colour in all pictures.

    >>> import numpy as np
    >>> picture = np.zeros((60, 80, 3), np.uint8)
    >>> corners = {"x_min": 10.0, "y_min": 20.0, "x_max": 50.0, "y_max": 50.0}
    >>> drawn = draw(picture, [{"class_id": 0, "class_name": "cat", "box_score": 0.9, **corners}])
    >>> drawn.shape, bool(drawn[40, 10].any()), bool(drawn[40, 30].any())
    ((60, 80, 3), True, False)

    Args:
        image: (H, W, 3) uint8 RGB, upright, as the boxes' pixels count.
        objects: entries of the column ``objects``, as ``to_pylist`` gives them.
        score_map: an entry of the column ``maps``.
        side: of the result, the longer one in pixels; None: the picture's own.
        labels: write the class and the score of each box.
        offset: of the recipe's ``cam.offset``, see ``draw_heat_map``.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    scale = 1.0 if side is None else side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    ground = image
    if score_map is not None:
        scores = StoredMap(**score_map).restore()
        ground = draw_heat_map(image, (width, height), scores, offset)
    boxes = Boxes.of(
        [[one[edge] for edge in SIDES] for one in objects],
        class_id=np.arange(len(objects)),
        score=[one["box_score"] for one in objects],
    )
    names = [one["class_name"] for one in objects]
    colours = {one["class_name"]: class_colour(one["class_id"]) for one in objects}
    font = ImageFont.load_default(size=min(max(min(size) // 22, 11), 20))
    nothing = Boxes.of([])
    return draw_boxes(ground, size, boxes, names, nothing, colours, font, labels=labels)


def draw_heat_map(
    image: Picture,
    size: tuple[int, int],
    score_map: NDArray[np.floating[Any]] | None,
    offset: float = 0.0,
) -> Picture:
    """A picture under its score map, dark where the score is lowest and bright where highest.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: width and height of the result in pixels.
        score_map: (h, w) of any range, stretched over the picture; None dims the picture alone.
        offset: how many cells further right and down than it lies a cell looks, as boxes know.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    panel = _resized(image, size).astype(np.float32)
    if score_map is None:
        return np.asarray(0.35 * panel).astype(np.uint8)
    scores = cv2.resize(score_map.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    if offset:
        rows, columns = score_map.shape
        moved = np.array([[1, 0, offset * size[0] / columns], [0, 1, offset * size[1] / rows]])
        scores = cv2.warpAffine(scores, moved, size, borderMode=cv2.BORDER_REPLICATE)
    spread = float(scores.max() - scores.min())
    heat = (scores - scores.min()) / spread if spread > 0.0 else np.zeros_like(scores)
    colours = heat_colours(np.rint(255.0 * heat).astype(np.uint8))
    # The picture shows through in grey, so that its colours are not taken for scores.
    grey = panel @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(0.62 * colours + 0.38 * grey[:, :, None]).astype(np.uint8)


def _resized(image: Picture, size: tuple[int, int]) -> Picture:
    """A picture of (width, height) ``size``, smoothly resized; always a copy."""
    shrinks = size[0] < image.shape[1] or size[1] < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=interpolation)).copy()


def within(picture: Picture, side: int) -> Picture:
    """The picture (H, W, 3), shrunk where its longer side has more than ``side`` pixels."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    return _resized(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
