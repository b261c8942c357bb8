"""Measuring one worker on this machine, before a cluster of them is rented."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from typer import Option

from cambox.cli.options import ConfigPath, Json, Overrides, app, configured
from cambox.console import say
from cambox.errors import RequestError
from cambox.measure.countdown import Countdown


@app.command()
def bench(
    config: ConfigPath,
    seconds: Annotated[
        float, Option(min=1, help="To measure for, all parts together; loading comes before it")
    ] = 60.0,
    price_per_hour: Annotated[
        float | None, Option(min=0, help="Of one such machine, in any currency")
    ] = None,
    images: Annotated[int | None, Option(min=1, help="To be annotated; with --hours")] = None,
    hours: Annotated[float | None, Option(min=0.001, help="They may take; with --images")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Measure what one worker reaches here with your shards, and what bounds it.

    Run it on one machine of the kind that you would rent, where the shards are read from there:
    `cambox bench mine.yaml --price-per-hour 2.50 --images 100000000 --hours 24` says how many of
    them a job needs and what it costs. Reading, decoding, network and boxes are each measured
    alone, then all of it as cambox annotate does it, into a temporary folder; nothing of the output
    is read or written. It ends with what bounds the worker and which settings change that: try them
    with --set, such as `cambox bench mine.yaml --set engine.cpus_per_worker=8`, and compare. Ray
    needs no mention: a worker of a cluster does what this one does. Exit code: 0 it is measured; 1
    the storage failed; 2 the request is wrong.
    """
    settings = configured(config, overrides)
    if (images is None) != (hours is None):
        raise RequestError("--images and --hours go together; give both, or leave both out")
    from cambox.run import checked

    console = Console(stderr=as_json)
    settings, shards, _ = checked(settings, console)
    say(console, "loading torch")
    from cambox.measure.measure import measure
    from cambox.measure.report import Job, lines, to_json

    job = Job(images, hours, price_per_hour)
    with Countdown(console, seconds) as countdown:
        measured = measure(settings, shards, seconds, console, countdown.tell)
    if as_json:
        typer.echo(json.dumps(to_json(measured, job)))
    else:
        say(console, *lines(measured, job))
