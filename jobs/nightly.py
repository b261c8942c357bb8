"""What runs every night: ``python -m jobs.nightly CONFIG [--set ...] [--date YYYY-MM-DD]``.

Under ``ray job submit`` the driver needs one CPU and no GPU; ``--engine local`` needs no Ray.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli import ConfigPath, EngineName, Overrides, carry_out, with_engine

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def nightly(
    config: ConfigPath,
    overrides: Overrides = None,
    engine: EngineName = None,
    date: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD",
            help="What {date} in input.shards stands for; today (UTC) if not given",
        ),
    ] = None,
) -> None:
    """Annotate what is new, verify everything, write a report, and move `latest`.

    The report is OUTPUT/_runs/<start>-<recipe>.json and .html. Exit code: 0 every shard of the
    input is published and verified, and `latest` points there; 1 it ran, and something is
    unfinished or wrong; 2 the request is wrong.
    """
    from pipeline.config_file import load_config
    from pipeline.nightly.day import parse_day

    day = datetime.now(UTC).date() if date is None else parse_day(date)
    settings = load_config(config, with_engine(overrides, engine))
    # Later than a wrong configuration: it brings torch, which takes seconds.
    from pipeline.nightly.night import run_night

    command = ("python", "-m", "jobs.nightly", *sys.argv[1:])
    report = run_night(settings, day, command, Console())
    if report.exit_code:
        raise typer.Exit(report.exit_code)


if __name__ == "__main__":
    carry_out(app)
