"""From a folder of images to annotations: the commands that make them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cambox.cli.options import (
    ConfigPath,
    EngineName,
    Json,
    Overrides,
    RedoOlderThan,
    app,
    version_of,
    with_engine,
)


@app.command()
def pack(
    images_dir: Annotated[
        Path, typer.Argument(help="Folder of images, flat or one sub-folder per class")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the shards")],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Columns image,class_index; several rows where an image has several classes. "
            "Without it, sub-folders are the classes",
        ),
    ] = None,
    samples_per_shard: Annotated[
        int, typer.Option(min=1, help="Images in one shard, the unit of work and of retry")
    ] = 1000,
) -> None:
    """Write a folder of images as WebDataset shards, shard-000000.tar and so on."""
    from rich.progress import Progress, TextColumn

    from cambox.sources.pack import pack as write_shards

    console = Console()
    with Progress(
        TextColumn("pack {task.completed} images"), console=console, transient=True
    ) as bar:
        task = bar.add_task("pack", total=None)
        report = write_shards(images_dir, to, labels, samples_per_shard, lambda: bar.advance(task))
    console.print(
        f"{report.samples} images in {report.shards} shards, {report.unlabelled} without a label, "
        f"{report.skipped} other files skipped: {to}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    engine: EngineName = None,
    redo_older_than: RedoOlderThan = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do, shard by shard, and do nothing.

    Reads the input's listing and the footers of what is published; opens no shard.
    """
    from cambox.config_file import load_config
    from cambox.run import prepare

    console = Console(stderr=as_json)
    settings = load_config(config, with_engine(overrides, engine))
    ready, work = prepare(settings, console, version_of(redo_older_than))
    groups = {
        "new": work.new,
        "changed": work.changed,
        "outdated": work.outdated,
        "done": work.done,
    }
    if as_json:
        uris = {name: [shard.uri for shard in group] for name, group in groups.items()}
        document = {"recipe": ready.recipe.digest, **uris, "orphaned": work.orphaned}
        typer.echo(json.dumps(document))
        return
    for name, group in groups.items():
        for shard in group:
            console.print(
                escape(f"{name:8} {shard.size:>14,} bytes  {shard.uri}"),
                highlight=False,
                soft_wrap=True,
            )


@app.command()
def annotate(
    config: ConfigPath,
    overrides: Overrides = None,
    engine: EngineName = None,
    redo_older_than: RedoOlderThan = None,
    as_json: Json = False,
) -> None:
    """Annotate every shard of the input that is not annotated yet.

    Publishes one Parquet file per shard under OUTPUT/<recipe>/. Running it again does only what
    is new or changed. Exit code: 0 everything is published, 1 a shard was given up, 2 the
    request is wrong.
    """
    from cambox.config_file import load_config
    from cambox.run import print_summary, run

    console = Console(stderr=as_json)
    settings = load_config(config, with_engine(overrides, engine))
    summary = run(settings, console, version_of(redo_older_than))
    print_summary(summary, console)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if not summary.complete:
        raise typer.Exit(1)


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
    from cambox.config_file import load_config
    from cambox.nightly.day import parse_day

    day = datetime.now(UTC).date() if date is None else parse_day(date)
    settings = load_config(config, with_engine(overrides, engine))
    # Later than a wrong configuration: it brings torch, which takes seconds.
    from cambox.nightly.night import run_night

    report = run_night(settings, day, ("cambox", *sys.argv[1:]), Console())
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@app.command()
def models(
    pattern: Annotated[
        str, typer.Argument(help="Names with wildcards, such as 'swin_*' or 'torchvision/*vit*'")
    ],
    limit: Annotated[int, typer.Option(min=1, help="The most models to build and run")] = 30,
    as_json: Json = False,
) -> None:
    """Say which models have a map, of what kind, how fine, and at what cost.

    Builds each with random weights and probes it. Kinds: affine, fixed class weights; frozen,
    norms and gates behind the pooling are held at each image's values; derivative, where that is
    not enough; attention, what each token hands to the class through the last attention; cells,
    layers over all cells at once (VGG).
    """
    from cambox.models.listing import inspect_models, matching_models, print_models, to_json

    console = Console(stderr=as_json)
    inspected = list(inspect_models(matching_models(pattern, limit), console))
    if as_json:
        typer.echo(to_json(inspected))
    else:
        print_models(inspected, console)


@app.command()
def demo(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the demo")] = Path(
        "demo"
    ),
) -> None:
    """Annotate pictures with known boxes and see what comes out; no network, under a minute.

    Makes 240 pictures of textured objects, packs them into shards, annotates them with a small
    classifier that comes with cambox, compares with the true boxes, and draws DIR/sheet.png.
    """
    from cambox.demo.demo import run_demo

    if not run_demo(to, Console()).complete:
        raise typer.Exit(1)
