"""From a folder of images to annotations: the commands that make them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from cambox.cli.options import (
    ConfigPath,
    EngineName,
    Json,
    Overrides,
    RedoOlderThan,
    app,
    configured,
    version_of,
)
from cambox.console import counted, say
from cambox.errors import RequestError, some_of


@app.command()
def pack(
    images_dir: Annotated[
        Path, Argument(help="Folder of images, flat or one sub-folder per class")
    ],
    to: Annotated[Path, Option("--to", metavar="DIR", help="Folder for the shards")],
    labels: Annotated[
        Path | None,
        Option(
            metavar="CSV",
            help="Columns image,class_index or image,class_name; several rows where an image has "
            "several classes. Without it, sub-folders are the classes",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Number the classes by the lines of this file, such as those of the classifier; "
            "without it they are sorted",
        ),
    ] = None,
    samples_per_shard: Annotated[
        int, Option(min=1, help="Images in one shard, the unit of work and of retry")
    ] = 1000,
    skip_bad: Annotated[
        bool,
        Option("--skip-bad", help="Exit 0 although images were left out, or have no label"),
    ] = False,
) -> None:
    """Write a folder of images as WebDataset shards.

    They are DIR/shard-000000.tar and so on; the same images and labels give the same bytes. Exit
    code: 0 every image is packed and labels are as asked for; 1 some are not, and are named; 2 the
    request is wrong.
    """
    from rich.progress import Progress, TextColumn

    from cambox.sources.pack import pack as write_shards

    console = Console()
    with Progress(
        TextColumn("pack {task.completed} images"), console=console, transient=True
    ) as bar:
        task = bar.add_task("pack", total=None)
        report = write_shards(
            images_dir, to, labels, samples_per_shard, lambda: bar.advance(task), class_names
        )
    say(
        console,
        f"{counted(report.samples, 'image')} in {counted(report.shards, 'shard')}, "
        f"{report.unlabelled} without a label: {to}",
    )
    found = {"skipped": report.skipped, "note": report.notes, "fault": report.faults}
    for kind, findings in found.items():
        for what, names in findings.items():
            say(console, f"{kind}: {len(names)} {what}: {some_of(names)}")
    if report.faults and not skip_bad:
        say(console, "remove the shards, mend this and pack again; or accept it with --skip-bad")
        raise typer.Exit(1)


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    engine: EngineName = None,
    redo_older_than: RedoOlderThan = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do, shard by shard, and do nothing.

    Reads the input's listing and the footers of what is published; opens no shard. The model is
    loaded only where no earlier run with these settings, files and versions has kept its recipe:
    on a cluster that has changed since then, `auto` may come out otherwise.
    """
    settings = configured(config, overrides, engine)
    since = version_of(redo_older_than)
    from cambox.run import plan_only

    console = Console(stderr=as_json)
    recipe, work = plan_only(settings, console, since)
    groups = {name: getattr(work, name) for name in ("new", "changed", "outdated", "done")}
    if as_json:
        uris = {name: [shard.uri for shard in group] for name, group in groups.items()}
        typer.echo(json.dumps({"recipe": recipe.digest, **uris, "orphaned": work.orphaned}))
        return
    for name, group in groups.items():
        for shard in group:
            say(console, f"{name:8} {shard.size:>14,} bytes  {shard.uri}")


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
    settings = configured(config, overrides, engine)
    since = version_of(redo_older_than)
    from cambox.run import run
    from cambox.summary import print_summary

    console = Console(stderr=as_json)
    summary = run(settings, console, since)
    print_summary(summary, console)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if not summary.complete:
        raise typer.Exit(1)


@app.command()
def retry(
    config: ConfigPath,
    status: Annotated[
        list[str] | None,
        Option(
            metavar="STATUS,...",
            help="Rows of these statuses: unreadable, too_large, no_image, no_label; unreadable,"
            "no_image if not given. Repeatable",
        ),
    ] = None,
    overrides: Overrides = None,
    engine: EngineName = None,
    as_json: Json = False,
) -> None:
    """Read the samples again that failed, and no others.

    After a hiccup of the storage, or with a codec installed since. CONFIG is what the output was
    annotated with: files say their recipe, but not where its weights are. Every shard that has such
    rows is read, only their images are decoded, and its file is published whole: a row with
    another status than before is new, every other one stays as it is, and a file without a new row
    is not written. Running it again goes on with what still failed. Exit code: 0 all of them were
    read again, also where some failed again, which is their status; 1 a shard was given up; 2 the
    request is wrong.
    """
    settings = configured(config, overrides, engine)
    statuses = _failed_statuses(status or ["unreadable,no_image"])
    from cambox.run import retry as retry_rows
    from cambox.summary import print_retry, retry_to_json

    console = Console(stderr=as_json)
    summary = retry_rows(settings, statuses, console)
    print_retry(summary, console)
    if as_json:
        typer.echo(json.dumps(retry_to_json(summary)))
    if not summary.complete:
        raise typer.Exit(1)


def _failed_statuses(given: list[str]) -> list[str]:
    from cambox.sources.decode import SampleStatus

    wanted = [name.strip() for text in given for name in text.split(",")]
    failed = [str(status) for status in SampleStatus if status is not SampleStatus.ok]
    for name in wanted:
        if name not in failed:
            raise RequestError(f"--status: {name!r} is none of {', '.join(failed)}")
    return wanted


@app.command()
def nightly(
    config: ConfigPath,
    overrides: Overrides = None,
    engine: EngineName = None,
    date: Annotated[
        str | None,
        Option(
            metavar="YYYY-MM-DD",
            help="What {date} in input.shards stands for; today (UTC) if not given",
        ),
    ] = None,
) -> None:
    """Annotate what is new, verify, report, and move `latest`.

    Everything published is verified. The report is OUTPUT/_runs/<start>-<recipe>.json and .html.
    Exit code: 0 every shard of the input is published and verified, and `latest` points there; 1 it
    ran, and something is unfinished or wrong; 2 the request is wrong.
    """
    settings = configured(config, overrides, engine)
    from cambox.nightly.night import parse_day, run_night

    day = datetime.now(UTC).date() if date is None else parse_day(date)
    report = run_night(settings, day, ("cambox", *sys.argv[1:]), Console())
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@app.command()
def demo(
    to: Annotated[Path, Option("--to", metavar="DIR", help="Folder for the demo")] = Path("demo"),
) -> None:
    """Annotate pictures with known boxes and see what comes out.

    Takes no network and less than a minute. Makes 240 pictures of textured objects, packs them into
    shards, annotates them with a small classifier that comes with cambox, compares with the true
    boxes, and draws DIR/sheet.png.
    """
    from cambox.demo.demo import run_demo

    if not run_demo(to, Console()).complete:
        raise typer.Exit(1)
