"""What is printed of other libraries' messages: one line, no colours, whole sentences."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from cambox.cli.options import carry_out
from cambox.console import one_line, page_template, say, saying_notes, visible
from cambox.errors import RequestError


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


CLEARS = "\x1b]0;own\x07\x1b[2Ja\nb\u202e\ud800.tar"
SHOWN = r"\x1b]0;own\x07\x1b[2Ja\nb\u202e\ud800.tar"


def test_what_acts_on_a_terminal_is_shown_instead(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        visible("two\nlines\tand שלום, naïve 👩\u200d🔬")
        == "two\nlines\tand שלום, naïve 👩\u200d🔬"
    )
    output = io.StringIO()
    say(Console(file=output, force_terminal=True), f"given up {CLEARS}: [bold]")
    assert output.getvalue() == f"given up {SHOWN}: [bold]\n"

    def fail() -> None:
        logging.getLogger("cambox.nobody").warning("%s changed", CLEARS)
        raise RequestError(f"input.shards: {CLEARS}")

    # Nobody takes what is logged: neither pytest, nor a worker that a test had in this process.
    for name in (None, "cambox"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    with pytest.raises(SystemExit):
        carry_out(fail)
    assert capsys.readouterr().err == f"{SHOWN} changed\ncambox: input.shards: {SHOWN}\n"


def test_pages_show_it_too_and_keep_the_lines_of_a_traceback() -> None:
    environment = page_template("cambox.nightly").environment
    page = environment.from_string("<pre>{{ text }}</pre>{{ number }}")
    text = "\x1b[2J\ud800<b>\nnext"
    shown = "\\x1b[2J\\ud800&lt;b&gt;\nnext"
    assert page.render(text=text, number=3) == f"<pre>{shown}</pre>3"
