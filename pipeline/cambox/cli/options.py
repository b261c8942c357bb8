"""The ``cambox`` command, and the options that several of its commands have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from packaging.version import InvalidVersion, Version

from cambox.errors import RequestError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn image datasets into detector training data: class activation maps to pseudo "
    "boxes, without gradients. Start with `cambox demo`; then `cambox pack` a folder of images "
    "and `cambox annotate` the shards.",
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration; see configs/")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a setting; the value is YAML. Repeatable: --set cam.top_k=3 "
        "--set 'model.kwargs={pad_type: same}'",
    ),
]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="local|ray", help="Override engine.name")
]
RedoOlderThan = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION",
        help="Also redo what an older version of cambox made; without it an upgrade redoes nothing",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on standard output, the rest on standard error"),
]


def version_of(text: str | None) -> Version | None:
    """The version that ``--redo-older-than`` names.

    Raises:
        RequestError: it is none.
    """
    try:
        return None if text is None else Version(text)
    except InvalidVersion as error:
        raise RequestError(f"--redo-older-than: {text} is no version, such as 0.2.0") from error


def with_engine(overrides: list[str] | None, engine: str | None) -> list[str]:
    """The overrides of a command line, ``--engine`` being one of them."""
    return [*(overrides or []), *([f"engine.name={engine}"] if engine else [])]


def carry_out(command: Callable[[], object]) -> None:
    """Run a command; a wrong request ends in one line and exit code 2."""
    try:
        command()
    except RequestError as error:
        sys.stderr.write(f"cambox: {error}\n")
        sys.exit(2)
