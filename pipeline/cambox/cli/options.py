"""The app, and what several of its commands share: options, and the one line of a wrong request."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from packaging.version import InvalidVersion, Version
from rich.console import Console
from typer import Argument, Option

from cambox import __version__
from cambox.console import VisibleFormatter, one_visible_line, say
from cambox.errors import RequestError, Terminated
from cambox.sources.signed import unsigned

if TYPE_CHECKING:
    from cambox.config import Config

INTERRUPTED = 130
"""The exit code after Ctrl-C, which is the shells' own; after SIGTERM it is theirs as well."""
SECONDS_TO_END = 9.0

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: it comes at once, and wraps where a terminal does.
    rich_markup_mode=None,
)

ConfigPath = Annotated[
    Path, Argument(help="A file, or a recipe's name: see cambox recipes", metavar="CONFIG")
]
OneRecipe = Annotated[
    str, Argument(help="A recipe's folder, or an output: its only recipe, or its latest one")
]
Overrides = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a setting; the value is YAML. Repeatable: --set cam.top_k=3 "
        "--set 'model.kwargs={pad_type: same}'",
    ),
]
EngineName = Annotated[
    str | None, Option("--engine", metavar="local|ray", help="Override engine.name")
]
RedoOlderThan = Annotated[
    str | None,
    Option(
        metavar="VERSION",
        help="Also redo what an older version of cambox made; without it an upgrade redoes nothing",
    ),
]
Truth = Annotated[
    str,
    Option(
        "--truth",
        metavar="FILE",
        help="CSV with image,x_min,y_min,x_max,y_max and perhaps class_index (pixels of the "
        "upright image, half-open), or COCO JSON; a path or URL",
    ),
]
Json = Annotated[
    bool,
    Option("--json", help="One JSON object on standard output, the rest on standard error"),
]

# The filters of export and of training a detector, as in training.selection.
MinScore = Annotated[float, Option(min=0, max=1, help="Leave out boxes with a lower box_score")]
MaxRank = Annotated[
    int | None, Option(min=0, help="Leave out predicted classes of a higher rank; labels have 0")
]
OnlyLabels = Annotated[bool, Option("--only-labels", help="Only boxes of given labels")]
MaxComponent = Annotated[
    int | None, Option(min=0, help="Boxes of each class in an image: 0 the best only, 1 two, ...")
]
KeepEmpty = Annotated[
    bool,
    Option("--keep-empty", help="Also images without a box: the detector learns they are empty"),
]
ShardsAt = Annotated[
    str | None,
    Option(metavar="DIR", help="Where the shards are now, if moved; a folder or URL"),
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cambox {__version__}")
        raise typer.Exit


@app.callback()
def cambox(
    version: Annotated[
        bool,
        Option("--version", callback=_show_version, is_eager=True, help="Say which it is"),
    ] = False,
) -> None:
    """Turn image datasets into detector training data: class activation maps to pseudo boxes.

    Start with `cambox demo`. Then `cambox pack` a folder of images, choose one of `cambox
    recipes`, and `cambox annotate` the shards; look at them with `cambox gallery`, and `cambox
    export` them for a detector.
    """


def version_of(text: str | None) -> Version | None:
    """The version that ``--redo-older-than`` names.

    Raises:
        RequestError: it is none.
    """
    try:
        return None if text is None else Version(text)
    except InvalidVersion as error:
        raise RequestError(f"--redo-older-than: {text} is no version, such as 0.2.0") from error


def configured(path: Path, overrides: list[str] | None, engine: str | None = None) -> Config:
    """The configuration of a command line; what else a command needs is imported after it.

    Raises:
        RequestError: as ``load_config``.
    """
    from cambox.config_file import load_config

    of_engine = [f"engine.name={engine}"] if engine else []
    return load_config(path, [*(overrides or []), *of_engine])


def one_recipe(output: str, console: Console) -> str:
    """The URI of the recipe's folder that is asked for; says which, where ``latest`` chose it.

    Raises:
        RequestError: as ``recipe_folder``.
    """
    from cambox.output.folders import recipe_folder

    folder = recipe_folder(output)
    if folder.chosen_from > 1:
        say(console, f"{output} holds {folder.chosen_from} recipes; taken: latest, {folder.name}")
    return folder.uri


def _code_of(number: int = signal.SIGINT) -> int:
    return 128 + number


def carry_out(command: Callable[[], object]) -> None:
    """Run a command; a wrong request ends in one line and exit code 2, one at a bad time in 1.

    SIGTERM, by which clusters and supervisors end a process, ends it as Ctrl-C does: within
    ten seconds, whatever hangs.
    """
    heard: list[int] = []

    def end(number: int, _: object) -> None:
        # Once: whoever is impatient must not stop what is left to be done, such as a report.
        if not heard:
            heard.append(number)
            last = threading.Timer(SECONDS_TO_END, os._exit, [_code_of(number)])
            last.daemon = True
            last.start()
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    if logging.lastResort is not None:
        # By which Python prints what is logged where nobody else takes it.
        logging.lastResort.setFormatter(VisibleFormatter())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
        # Where it is ignored, as under nohup, it stays so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, end)
    try:
        command()
    except RequestError as error:
        sys.stderr.write(f"cambox: {one_visible_line(unsigned(str(error)))}\n")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code != INTERRUPTED:
            raise
        sys.stderr.write("cambox: interrupted; what is published is whole\n")
        code = _code_of(*heard)
        if any(one.is_alive() and not one.daemon for one in threading.enumerate()[1:]):
            # Python would wait for threads that hang in their storage.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)
