"""What is printed of other libraries' messages: one line, no colours, whole sentences."""

from __future__ import annotations

import io
import logging

from rich.console import Console

from cambox.console import one_line, saying_notes


def test_an_error_is_one_line_without_colours_that_ends_where_a_sentence_does() -> None:
    error = ValueError("Loading \x1b[1mfailed\x1b[0m.\n\tTry this. Or read on at great length")
    assert one_line(error) == "Loading failed. Try this. Or read on at great length"
    assert one_line(error, 40) == "Loading failed. Try this"
    assert one_line(ValueError("one long sentence without an end"), 12) == "one long ..."
    assert one_line(ValueError("short"), 12) == "short"
    assert one_line(KeyError()) == "KeyError"


def test_notes_are_said_meanwhile_and_silent_elsewhere() -> None:
    log, output = logging.getLogger("cambox.models.build"), io.StringIO()
    level = logging.getLogger("cambox").level
    with saying_notes(Console(file=output)):
        log.info("took [bold] %s", "state_dict")
    log.info("not said")
    assert output.getvalue() == "took [bold] state_dict\n"
    assert logging.getLogger("cambox").level == level
