"""What commands print (lines, errors in one line, how far they are), and where reports are kept.

Text of others (keys, names of classes, messages of libraries) goes through ``say``, which takes
none of it for markup, and through ``visible``, so that none of it moves the cursor, recolours the
terminal or plays a line of its own.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cambox.errors import RequestError
from cambox.sources.signed import unsigned

if TYPE_CHECKING:
    from jinja2 import Template

SECONDS_BETWEEN_LINES = 10.0

# The control characters of ASCII and Latin-1 (ANSI escapes begin with one), other ends of lines,
# what turns the direction of text, and the halves of characters, which no stream can write.
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Advance = Callable[[int], None]
"""Called with the total after each one that is done, from any thread."""


def visible(text: str) -> str:
    r"""A text of several lines without characters that act instead of being seen.

    >>> visible("\x1b[2Ja.tar")
    '\\x1b[2Ja.tar'
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_visible_line(text: str) -> str:
    """The same, its ends of lines written as ``\\n``."""
    return visible(text).replace("\n", "\\n")


def say(console: Console, *lines: str) -> None:
    """Print lines as they are, however long, without markup or colours of their own."""
    for line in lines:
        text = escape(one_visible_line(unsigned(line)))
        console.print(text, highlight=False, soft_wrap=True)


class VisibleFormatter(logging.Formatter):
    """What is logged, as ``say`` would print it; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own
        """The message's part of the line."""
        record.message = one_visible_line(unsigned(record.message))
        return super().formatMessage(record)


class _Saying(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        say(self._console, record.getMessage())


@contextmanager
def saying_notes(console: Console) -> Iterator[None]:
    """Print what cambox logs meanwhile; what is logged as information is silent elsewhere."""
    log, handler = logging.getLogger("cambox"), _Saying(console)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


def one_line(error: BaseException, most: int | None = None) -> str:
    """What an error says, in one line without colours; its kind where it says nothing.

    Args:
        most: characters, in whole sentences, or words if the first is longer; None: all.
    """
    text = visible(unsigned(" ".join(Text.from_ansi(str(error)).plain.split())))
    if most is not None and len(text) > most:
        sentence = text.rfind(". ", 0, most)
        text = text[:sentence] if sentence > 0 else text[:most].rpartition(" ")[0] + " ..."
    return text or type(error).__name__


def counted(number: int, what: str) -> str:
    """A number of things, by the name of one: ``1 shard``, ``12 boxes``."""
    ending = "" if number == 1 else "es" if what.endswith(("s", "x")) else "s"
    return f"{number} {what}{ending}"


class Steps(Progress):
    """The steps of a command, one after the other: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            # Short, so that a long name and two times have room in 80 columns.
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._last_line = time.monotonic()
        self._counting = Lock()

    def step(self, name: str) -> Advance:
        """A step that is shown from its first one on."""
        task = self.add_task(name, total=None, visible=False)
        start = time.monotonic()
        done = 0

        def advance(total: int) -> None:
            nonlocal done
            with self._counting:
                done += 1
                self.update(task, completed=done, total=total, visible=True)
                now = time.monotonic()
                if self.console.is_terminal or now - self._last_line < SECONDS_BETWEEN_LINES:
                    return
                self._last_line = now
                left = (now - start) / done * (total - done)
                rate = done / (now - start)
                say(self.console, f"{name} {done} of {total} · {rate:.1f}/s · {left:.0f} s left")

        return advance


def require_folder(folder: Path) -> None:
    """Make the folder, before the work whose result goes there.

    Raises:
        RequestError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be made: {error.strerror}") from error
    require_writable(folder)


def require_writable(folder: Path) -> None:
    """See that files can be made in a folder that is there.

    Raises:
        RequestError: they cannot.
    """
    try:
        # What permissions say is not enough: a disk may be mounted for reading only.
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be written: {error.strerror}") from error


def write_files(folder: Path, files: Mapping[str, bytes | None]) -> list[Path]:
    """Write files into a folder, each whole or not at all, in place of older ones.

    Args:
        files: by name; None: there is nothing to write, and one of an earlier run, which would be
            of something else, is removed.

    Returns:
        The paths of those written.

    Raises:
        RequestError: they cannot be written.
    """
    # Late: a command that writes no report needs no Parquet.
    from cambox.output.whole import publish_bytes

    written = []
    try:
        for name, data in files.items():
            path = folder / name
            if data is None:
                path.unlink(missing_ok=True)
            else:
                publish_bytes(str(path.absolute()), data)
                written.append(path)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be written: {error.strerror}") from error
    return written


def page_template(package: str) -> Template:
    """The template ``page.html`` of a package; what it shows is other people's text."""
    # Late: most commands make no page.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
