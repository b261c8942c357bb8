"""The ``cambox`` command; each module below holds some of its commands."""

from __future__ import annotations

# Importing them is what makes them commands of app.
from cambox.cli import annotating, exporting, judging, looking
from cambox.cli.options import ConfigPath, EngineName, Overrides, app, carry_out, with_engine

__all__ = [
    "ConfigPath",
    "EngineName",
    "Overrides",
    "annotating",
    "app",
    "carry_out",
    "exporting",
    "judging",
    "looking",
    "main",
    "with_engine",
]


def main() -> None:
    """Run ``cambox``."""
    carry_out(app)
