"""What libpng, libjpeg and libtiff print of pictures, counted instead of printed.

They write a line for each oddity to the process's standard error by themselves, from any thread:
with millions of pictures a terminal full, in which nobody finds what cambox says. What becomes of a
picture stands in its row.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from cambox.console import counted, one_visible_line

# libpng's prefix; libjpeg's warnings, as jerror.h has them; libtiff's "module: message", whose
# modules are named after its functions and its codecs'.
_OF_CODECS = re.compile(
    rb"libpng (warning|error): "
    rb"|Corrupt JPEG data: |Premature end of JPEG file|Inconsistent progression sequence for "
    rb"|Invalid SOS parameters for |Warning: unknown JFIF revision |Unknown Adobe color transform "
    rb"|Application transferred too many scanlines|More samples per pixel than can be decoded: "
    rb"|_?TIFF\w+: |(JPEGLib|JPEG(Pre|Post|Setup)?Decode\w*|(LZMA|ZSTD|LZW|ZIP|Fax3?|PackBits|Old"
    rb"JPEG|PixarLog|LogL?uv|SGILog|Lerc|WebP|Thunder|NeXT)(Pre|Post|Setup)?Decode\w*): "
)
# Longer than to wait for a thread that has only to wake up.
_SECONDS_TO_READ = 1.0
_END = b"\0cambox: the end\0\n"


@dataclass
class _Heard:
    count: int = 0
    first: str = ""


@contextmanager
def codec_messages_counted() -> Iterator[None]:
    """Take these lines out of standard error, and say at the end how many there were.

    All others pass, as soon as they are written. Where Python's standard error is not the
    process's, as in tests and notebooks, nothing is done.
    """
    before = sys.stderr
    if before is not sys.__stderr__ or before is None or before.fileno() != 2:
        yield
        return
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.set_inheritable(kept, False)
    os.dup2(writing, 2)
    os.close(writing)
    heard, ended = _Heard(), threading.Event()
    # A daemon, as processes that were begun meanwhile may write there for longer.
    threading.Thread(
        target=_pass_on, args=(os.fdopen(reading, "rb"), kept, heard, ended), daemon=True
    ).start()
    # What Python writes goes where it went, and is a terminal where it was one.
    sys.stderr = os.fdopen(os.dup(kept), "w", 1, errors="backslashreplace")
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.write(2, _END)
        os.dup2(kept, 2)
        ended.wait(_SECONDS_TO_READ)
        if heard.count:
            before.write(
                f"cambox: {counted(heard.count, 'message')} of image libraries, the first: "
                f"{heard.first!r}; what became of a picture stands in its row's status\n"
            )


def _pass_on(source: BinaryIO, to: int, heard: _Heard, ended: threading.Event) -> None:
    for line in source:
        if line.endswith(_END):
            # What came before it had no end of a line.
            os.write(to, line.removesuffix(_END))
            ended.set()
        elif _OF_CODECS.match(line):
            heard.count += 1
            heard.first = heard.first or one_visible_line(line.decode(errors="replace").strip())
        else:
            os.write(to, line)
