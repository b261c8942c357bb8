"""The colours of all that is drawn, in one place: the sheet's pictures and the gallery's page.

A class has the same colour in every picture of every output, and it follows from its number alone.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

INK: Colour = (12, 13, 16)
"""Of what is written on a class's colour, which is bright, and of the line around a frame."""
CLASSES: tuple[Colour, ...] = (
    (0, 200, 255),
    (255, 176, 0),
    (76, 217, 100),
    (255, 92, 138),
    (170, 140, 255),
    (255, 236, 79),
    (64, 224, 190),
    (255, 122, 69),
    (120, 170, 255),
    (230, 120, 240),
)
"""Neighbouring classes differ; of more than these, some share a colour, and names tell them."""
DARK: dict[str, Colour] = {
    "page": (18, 20, 24),
    "card": (30, 33, 40),
    "line": (54, 61, 71),
    "text": (232, 234, 238),
    "soft": (160, 169, 181),
    "accent": (108, 176, 255),
    "good": (92, 207, 122),
    "bad": (255, 143, 133),
    "empty": (42, 48, 57),
}
"""Of the sheet, and of the page where the reader's desktop is dark."""
LIGHT: dict[str, Colour] = {
    "page": (246, 247, 249),
    "card": (255, 255, 255),
    "line": (213, 217, 223),
    "text": (23, 26, 31),
    "soft": (90, 99, 112),
    "accent": (31, 111, 235),
    "good": (17, 122, 55),
    "bad": (180, 35, 24),
    "empty": (228, 231, 236),
}


def class_colour(class_id: int) -> Colour:
    """RGB of a class."""
    return CLASSES[class_id % len(CLASSES)]


def heat_colours(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) uint8, 0 (low) to 255 (high), as (h, w, 3) uint8 RGB."""
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return np.ascontiguousarray(coloured, np.uint8)


def heat_ramp(steps: int) -> list[list[int]]:
    """(steps, 3) RGB of the heat, from low to high."""
    levels = np.linspace(0, 255, steps).astype(np.uint8)[None]
    ramp: list[list[int]] = heat_colours(levels)[0].tolist()
    return ramp


def style_sheet() -> str:
    """The colours as variables of CSS: ``--page``, ``--text``, ``--class-0`` and so on."""
    classes = {f"class-{number}": colour for number, colour in enumerate(CLASSES)}
    light = _variables({**LIGHT, **classes, "ink": INK})
    dark = _variables(DARK)
    return f":root {{{light}}}\n@media (prefers-color-scheme: dark) {{ :root {{{dark}}} }}\n"


def _variables(colours: dict[str, Colour]) -> str:
    return "".join(f" --{name}: #{bytes(colour).hex()};" for name, colour in colours.items())
