"""What a scene is painted with: colours, outlines, backgrounds, and the textures of its objects.

The eight textures are the classes of the demo. Each is a function of coordinates ``u, v`` (arrays
of one shape, in periods of the texture; float32 for speed), and gives, in the same shape, the
signed distance to the ink in periods: positive where the ink is. The distance makes the edges
smooth at any scale.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Vertex coordinates are handed to OpenCV as fixed-point numbers with this many fractional bits.
_FRACTION_BITS = 4
_CURVE_POINTS = 72
_MIN_CONTRAST = 70.0
_LUMINANCE = np.array([0.299, 0.587, 0.114])

_STAR_SECTOR = math.pi / 5
_STAR_OUTER = 0.46
_STAR_INNER = 0.19

Canvas = NDArray[np.floating[Any]]
Coverage = NDArray[np.uint8]


def _cell(coordinate: Canvas) -> Canvas:
    """The offset from the nearest integer, -0.5 to 0.5."""
    return np.asarray(coordinate - np.rint(coordinate))


def _triangle(coordinate: Canvas) -> Canvas:
    """A triangle wave of period 1, from -0.5 to 0.5."""
    return 2.0 * np.abs(_cell(coordinate)) - np.float32(0.5)


def _striped(u: Canvas, v: Canvas) -> Canvas:
    return np.float32(0.25) - np.abs(_cell(u))


def _checkered(u: Canvas, v: Canvas) -> Canvas:
    # Two cells make a period, and the product of the waves changes its sign at each cell's edge.
    return 2.0 * _triangle(0.7 * u) * _triangle(0.7 * v)


def _dotted(u: Canvas, v: Canvas) -> Canvas:
    return np.float32(0.31) - np.hypot(_cell(u), _cell(v))


def _ringed(u: Canvas, v: Canvas) -> Canvas:
    distance = np.hypot(_cell(0.8 * u), _cell(0.8 * v))
    return np.float32(0.1) - np.abs(distance - np.float32(0.33))


def _zigzag(u: Canvas, v: Canvas) -> Canvas:
    return np.float32(0.25) - np.abs(_cell(u + 0.9 * _triangle(0.55 * v)))


def _brick(u: Canvas, v: Canvas) -> Canvas:
    row = np.rint(v)
    to_bed = np.float32(0.5) - np.abs(v - row)
    # Every second row is shifted by half a brick; a brick is two rows long.
    along = _cell(0.5 * u + 0.5 * (row % 2))
    to_head = 2.0 * (np.float32(0.5) - np.abs(along))
    return np.asarray(np.minimum(to_bed, to_head) - np.float32(0.12))


def _crosshatched(u: Canvas, v: Canvas) -> Canvas:
    return np.float32(0.12) - np.minimum(np.abs(_cell(u)), np.abs(_cell(v)))


def _starry(u: Canvas, v: Canvas) -> Canvas:
    x, y = _cell(0.8 * u), _cell(0.8 * v)
    # Fold the plane onto half a point of a five-pointed star, whose edge is one straight line
    # from the outer vertex on the axis to the inner vertex at the end of the sector.
    angle = np.arctan2(y, x) / (2.0 * _STAR_SECTOR)
    folded = np.abs(_cell(angle)) * (2.0 * _STAR_SECTOR)
    radius = np.hypot(x, y)
    inner_x = _STAR_INNER * math.cos(_STAR_SECTOR)
    inner_y = _STAR_INNER * math.sin(_STAR_SECTOR)
    edge = math.hypot(_STAR_OUTER - inner_x, inner_y)
    normal_x, normal_y = inner_y / edge, (_STAR_OUTER - inner_x) / edge
    along_normal = np.cos(folded) * normal_x + np.sin(folded) * normal_y
    return np.asarray(_STAR_OUTER * normal_x - radius * along_normal)


TEXTURES = {
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
    "ringed": _ringed,
    "zigzag": _zigzag,
    "brick": _brick,
    "crosshatched": _crosshatched,
    "starry": _starry,
}


def texture_ink(name: str, u: Canvas, v: Canvas, period: float) -> Canvas:
    """How much of each pixel the ink of a texture covers.

    Args:
        name: a key of ``TEXTURES``.
        u, v: (H, W) float32, coordinates along the axes of the texture, in periods.
        period: in pixels, which makes the edges one pixel wide.

    Returns:
        (H, W) float32, 0 (paper) to 1 (ink).
    """
    distance = TEXTURES[name](u, v)
    return np.asarray(np.clip(np.float32(0.5) + distance * np.float32(period), 0.0, 1.0))


def _random_colour(generator: np.random.Generator) -> NDArray[np.float64]:
    hue, saturation, value = generator.uniform((0.0, 0.15, 0.2), (6.0, 0.85, 1.0))
    distance = np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0
    return np.asarray(255.0 * value * (1.0 - saturation * (1.0 - np.clip(distance, 0.0, 1.0))))


def _contrasting_colours(generator: np.random.Generator) -> NDArray[np.float64]:
    while True:
        colours = np.stack([_random_colour(generator), _random_colour(generator)])
        luminance = colours @ _LUMINANCE
        if abs(luminance[0] - luminance[1]) >= _MIN_CONTRAST:
            return colours


def _paint(canvas: Canvas, colour: Canvas, coverage: Coverage) -> None:
    """Blend a colour, (3,) or one for each pixel of the coverage's box, into the canvas."""
    x, y, width, height = cv2.boundingRect(coverage)
    window = np.s_[y : y + height, x : x + width]
    alpha = (coverage[window].astype(np.float32) / np.float32(255.0))[:, :, None]
    canvas[window] += alpha * (colour - canvas[window])


def random_silhouette(generator: np.random.Generator, area: float) -> NDArray[np.float64]:
    """An ellipse, rounded rectangle, polygon or blob, turned by a random angle.

    Args:
        area: inside the outline, in square pixels.

    Returns:
        (N, 2) float64 vertices x, y in pixels around the origin.
    """
    kind = generator.integers(4)
    angles = np.linspace(0.0, 2.0 * np.pi, _CURVE_POINTS, endpoint=False)
    if kind == 2:
        corners = int(generator.integers(5, 9))
        turns = (np.arange(corners) + generator.uniform(-0.25, 0.25, corners)) / corners
        angles = 2.0 * np.pi * turns
    vertices = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if kind == 1:
        # A superellipse: the larger the exponent, the sharper the corners.
        vertices = np.sign(vertices) * np.abs(vertices) ** (2.0 / generator.uniform(4.0, 9.0))
    elif kind == 2:
        vertices *= generator.uniform(0.85, 1.15, len(angles))[:, None]
    elif kind == 3:
        radii = np.ones_like(angles)
        for frequency, amplitude in ((2, 0.14), (3, 0.12), (5, 0.05)):
            phase = generator.uniform(0.0, 2.0 * np.pi)
            radii += generator.uniform(0.3, 1.0) * amplitude * np.cos(frequency * angles + phase)
        vertices *= radii[:, None]

    vertices[:, 0] *= generator.uniform(1.0, 1.5)
    turn = generator.uniform(0.0, 2.0 * np.pi)
    cosine, sine = np.cos(turn), np.sin(turn)
    vertices = vertices @ np.array([[cosine, sine], [-sine, cosine]])
    x, y = vertices.T
    own_area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    return np.asarray(vertices * np.sqrt(area / own_area))


def fill_silhouette(vertices: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """How much of each pixel lies inside an outline.

    Args:
        vertices: (N, 2) x, y in pixels; may lie outside the picture.

    Returns:
        (height, width) uint8, 0 (outside) to 255 (inside), antialiased.
    """
    coverage = np.zeros((height, width), dtype=np.uint8)
    # OpenCV counts from the middle of the first pixel, pictures from its corner.
    fixed_point = np.rint((vertices - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)
    cv2.fillPoly(coverage, [fixed_point], 255, cv2.LINE_AA, _FRACTION_BITS)
    return coverage


def paint_background(generator: np.random.Generator, height: int, width: int) -> Canvas:
    """A gradient with noise of several scales, plain shapes and lines; nothing with a texture.

    Returns:
        (height, width, 3) float32 RGB, around 0 to 255 and not clipped.
    """
    corners = np.stack([_random_colour(generator) for _ in range(4)]).reshape(2, 2, 3)
    canvas = cv2.resize(corners.astype(np.float32), (width, height))
    for cell in (3, 8, 20, 56):
        shape = (height // cell + 1, width // cell + 1, 3)
        noise = generator.standard_normal(shape, dtype=np.float32)
        amplitude = np.float32(generator.uniform(2.0, 16.0))
        canvas += cv2.resize(amplitude * noise, (width, height), interpolation=cv2.INTER_LINEAR)

    for _ in range(generator.integers(2, 7)):
        area = generator.uniform(0.01, 0.2) * height * width
        outline = random_silhouette(generator, area) + generator.uniform(0, 1, 2) * (width, height)
        shape_colour = _random_colour(generator).astype(np.float32)
        _paint(canvas, shape_colour, fill_silhouette(outline, height, width))
    for _ in range(generator.integers(2, 8)):
        ends = generator.uniform(-0.1, 1.1, (2, 2)) * (width, height)
        start, end = (tuple(int(x) for x in point) for point in ends)
        colour = _random_colour(generator)
        cv2.line(canvas, start, end, colour.tolist(), int(generator.integers(1, 7)), cv2.LINE_AA)
    return np.asarray(canvas)


def paint_texture(
    generator: np.random.Generator, canvas: Canvas, coverage: Coverage, name: str
) -> None:
    """Paint a texture of random colours, scale, phase and rotation where the coverage says.

    Args:
        canvas: (H, W, 3) float32 RGB, painted in place.
        coverage: (H, W) uint8, 0 (leave the canvas) to 255 (replace it).
        name: a key of ``TEXTURES``.
    """
    x, y, box_width, box_height = cv2.boundingRect(coverage)
    side = float(np.sqrt(np.count_nonzero(coverage)))
    period = float(np.clip(side * generator.uniform(0.16, 0.28), 16.0, 34.0))
    turn = generator.uniform(0.0, 2.0 * np.pi)
    phase = generator.uniform(0.0, 1.0, 2)
    columns = np.arange(x, x + box_width, dtype=np.float32)[None, :]
    rows = np.arange(y, y + box_height, dtype=np.float32)[:, None]
    cosine, sine = np.float32(np.cos(turn) / period), np.float32(np.sin(turn) / period)
    u = columns * cosine + rows * sine + np.float32(phase[0])
    v = rows * cosine - columns * sine + np.float32(phase[1])
    ink = texture_ink(name, u, v, period)[:, :, None]

    paper_colour, ink_colour = _contrasting_colours(generator).astype(np.float32)
    slope = generator.uniform(-0.2, 0.2, 2)
    shade = 1.0 + slope[0] * (columns - x - box_width / 2) / box_width
    shade = shade + slope[1] * (rows - y - box_height / 2) / box_height
    painted = (paper_colour + ink * (ink_colour - paper_colour)) * shade[:, :, None]
    _paint(canvas, painted, coverage)
