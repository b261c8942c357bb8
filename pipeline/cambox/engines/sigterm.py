"""SIGTERM ends a run on Ray as it ends a local one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cambox.errors import Terminated


@contextmanager
def sigterm_as_elsewhere() -> Iterator[None]:
    """What the command does at SIGTERM comes out of here, whatever Ray makes of it.

    Ray puts a handler of its own in the place of the command's, by which the process ends with
    another code; and what a handler raises while Ray waits for an answer becomes a plain
    KeyboardInterrupt, which is Ctrl-C.

    Raises:
        Terminated: SIGTERM was heard, and the command's handler raised it or would have.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is None:
        # No handler is changed outside of it, by Ray neither; and None is one that is not Python's.
        yield
        return
    heard = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        if callable(before):
            before(number, frame)

    if callable(before):
        signal.signal(signal.SIGTERM, note)
    try:
        yield
    except SystemExit:
        # Ray's handler. The signal is given to whom it was meant for.
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    except KeyboardInterrupt as error:
        if heard and not isinstance(error, Terminated):
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
