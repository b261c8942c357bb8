"""The ``cambox`` command; each module here holds the commands of one kind."""

from __future__ import annotations

# Importing them is what makes them commands of app, in the order that --help has them in.
from cambox.cli import annotate, probe, output, look, derive, detect, review  # isort: skip
from cambox.cli import corrections, measure, recipes  # isort: skip
from cambox.cli.options import app, carry_out
from cambox.codec_messages import codec_messages_counted

__all__ = [
    "annotate",
    "app",
    "corrections",
    "derive",
    "detect",
    "look",
    "main",
    "measure",
    "output",
    "probe",
    "recipes",
    "review",
]


def main() -> None:
    """Run ``cambox``; a wrong request ends in one line and exit code 2."""
    with codec_messages_counted():
        carry_out(lambda: app(prog_name="cambox"))
