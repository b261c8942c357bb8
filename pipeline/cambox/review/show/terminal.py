"""A picture on a terminal: as the terminal's own image where it has that, else of half blocks."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from cambox.review.draw import Picture
from cambox.review.sheet import png

Way = Literal["kitty", "iterm", "blocks"]

_KITTY_TERMS = ("xterm-kitty", "xterm-ghostty")
_KITTY_PROGRAMS = ("ghostty",)
_ITERM_PROGRAMS = ("iTerm.app", "WezTerm", "mintty")
# What the protocol of kitty takes at a time.
_CHUNK = 4096
_MOST_COLUMNS, _MOST_LINES = 100, 40


def way_of(environ: Mapping[str, str]) -> Way:
    """How a terminal shows pictures, by what it says of itself.

    >>> way_of({"TERM_PROGRAM": "iTerm.app"}), way_of({"TERM": "xterm-256color"})
    ('iterm', 'blocks')
    """
    # A multiplexer in between hands on neither protocol, and its terminal's name is older than it.
    if "TMUX" in environ or environ.get("TERM", "").startswith(("screen", "tmux")):
        return "blocks"
    term, program = environ.get("TERM"), environ.get("TERM_PROGRAM")
    if "KITTY_WINDOW_ID" in environ or term in _KITTY_TERMS or program in _KITTY_PROGRAMS:
        return "kitty"
    return "iterm" if program in _ITERM_PROGRAMS else "blocks"


def as_kitty(picture: Picture) -> str:
    """The characters that kitty and its like show as a picture."""
    data = base64.b64encode(png(picture)).decode()
    chunks = [data[first : first + _CHUNK] for first in range(0, len(data), _CHUNK)]
    controls = ["a=T,f=100,"] + [""] * (len(chunks) - 1)
    return "".join(
        f"\x1b_G{control}m={int(number < len(chunks))};{chunk}\x1b\\"
        for number, (control, chunk) in enumerate(zip(controls, chunks, strict=True), 1)
    )


def as_iterm(picture: Picture) -> str:
    """The characters that iTerm2 and its like show as a picture."""
    data = png(picture)
    text = base64.b64encode(data).decode()
    return f"\x1b]1337;File=inline=1;size={len(data)};preserveAspectRatio=1:{text}\x07"


def as_blocks(picture: Picture) -> list[Text]:
    """A line for each two rows of pixels, the upper one the letter's colour, the lower its ground.

    Args:
        picture: (H, W, 3) uint8 RGB; a last row without a second one is left out.
    """
    lines = []
    for upper, lower in zip(picture[0::2].tolist(), picture[1::2].tolist(), strict=False):
        line = Text(no_wrap=True, end="")
        for above, below in zip(upper, lower, strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines.append(line)
    return lines


def side_in_blocks(height: int, width: int, columns: int) -> int:
    """The longer side of a picture, in pixels, so that half blocks of it fit on a terminal.

    >>> side_in_blocks(300, 400, columns=80), side_in_blocks(4000, 400, columns=80)
    (80, 80)

    Args:
        height, width: of the picture.
        columns: of the terminal.
    """
    columns, rows = min(columns, _MOST_COLUMNS), 2 * _MOST_LINES
    return max(2, int(max(height, width) * min(columns / width, rows / height)))


def print_picture(picture: Picture, way: Way, console: Console) -> None:
    """Show a picture, which for blocks has no more pixels than fit."""
    if way == "blocks":
        for line in as_blocks(picture):
            console.print(line, soft_wrap=True)
        return
    console.file.write((as_kitty if way == "kitty" else as_iterm)(picture) + "\n")
    console.file.flush()
