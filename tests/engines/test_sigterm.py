"""SIGTERM comes out of Ray's code as the command raised it; Ray's ways are played."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from cambox.engines.sigterm import sigterm_as_elsewhere
from cambox.errors import Terminated

HEARD: list[int] = []


def of_the_command(number: int, _: object) -> None:
    HEARD.append(number)
    raise Terminated


@pytest.fixture
def command() -> Iterator[None]:
    """A command hears SIGTERM, as ``cambox.cli.options.carry_out`` lets it."""
    HEARD.clear()
    before = signal.signal(signal.SIGTERM, of_the_command)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGTERM, before) is of_the_command


def like_ray_init(*numbers: signal.Signals) -> None:
    """With signals that come meanwhile."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    for number in numbers:
        signal.raise_signal(number)


def like_ray_wait(number: signal.Signals) -> None:
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


@pytest.mark.usefixtures("command")
def test_a_handler_that_ray_puts_in_place_of_the_commands_passes_the_signal_on() -> None:
    with pytest.raises(Terminated), sigterm_as_elsewhere():
        like_ray_init(signal.SIGTERM)
    assert HEARD == [signal.SIGTERM]


@pytest.mark.usefixtures("command")
def test_what_ray_makes_of_the_commands_exception_is_told_apart_from_ctrl_c() -> None:
    with pytest.raises(Terminated), sigterm_as_elsewhere():
        like_ray_wait(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as ctrl_c, sigterm_as_elsewhere():
        like_ray_wait(signal.SIGINT)
    assert ctrl_c.type is KeyboardInterrupt
    assert HEARD == [signal.SIGTERM]


@pytest.mark.usefixtures("command")
def test_after_ray_the_commands_handler_is_there_again() -> None:
    with sigterm_as_elsewhere():
        like_ray_init()
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
