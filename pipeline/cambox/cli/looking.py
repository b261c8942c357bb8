"""What annotations look like, and what another recipe makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cambox.cli.options import (
    Json,
    app,
)


@app.command()
def gallery(
    output: Annotated[
        str, typer.Argument(help="A recipe's folder, or an output that holds one recipe")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="Folder for gallery.html and sheet.png")
    ] = Path("gallery"),
    sample: Annotated[int, typer.Option(min=1, help="Rows to show")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Which rows; one seed, one sample")] = 0,
    most_shards: Annotated[
        int,
        typer.Option(
            min=1, help="Shards that the sample comes from; each is read up to its last picture"
        ),
    ] = 64,
) -> None:
    """Make one HTML page to look at an output: pictures, boxes, maps, scores, what failed and why.

    The page needs no server and no network. Its figures and plots are of all rows, read from a
    few columns; its pictures are a sample, read again from the shards. Exit code: 0 it is
    written, 2 the request is wrong.
    """
    from cambox.console import Steps
    from cambox.review.evaluate.files import require_folder
    from cambox.review.gallery.collect import GalleryRequest, collect
    from cambox.review.gallery.write import write_gallery

    console = Console()
    require_folder(to)
    request = GalleryRequest(output, sample, seed, most_shards)
    with Steps(console) as steps:
        made = collect(request, steps.step("files counted"), steps.step("rows shown"))
    for path in write_gallery(made, to):
        console.print(escape(f"written: {path}"), highlight=False, soft_wrap=True)


@app.command()
def diff(
    output_a: Annotated[
        str, typer.Argument(help="A recipe's folder, or an output that holds one recipe")
    ],
    output_b: Annotated[str, typer.Argument(help="The other")],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="Folder for diff.json and diff.png")
    ] = Path("diff"),
    pictures: Annotated[
        int, typer.Option(min=0, help="The largest changes to draw, from the shards")
    ] = 12,
    as_json: Json = False,
) -> None:
    """Say what changed between two nights, or two recipes.

    Shards are matched by their URI, rows by their key, boxes by overlap within image and class:
    statuses, boxes lost and gained, how far the others moved, classes, and the largest changes
    side by side. Exit code: 0 they are compared, however much they differ; 2 the request is wrong.
    """
    from cambox.console import Steps
    from cambox.review.diff.compare import Output, compare
    from cambox.review.diff.pictures import picture_changes, with_problems
    from cambox.review.diff.write import print_difference, write_difference
    from cambox.review.evaluate.files import require_folder

    console = Console(stderr=as_json)
    require_folder(to)
    with Steps(console) as steps:
        report, changes = compare(
            Output.at(output_a), Output.at(output_b), pictures, steps.step("shards compared")
        )
    tiles, problems = picture_changes(changes)
    report = with_problems(report, problems)
    written = write_difference(report, tiles, to)
    print_difference(report, console)
    for path in written:
        console.print(escape(f"written: {path}"), highlight=False, soft_wrap=True)
    if as_json:
        typer.echo(report.model_dump_json())


@app.command()
def rebox(
    output: Annotated[
        str,
        typer.Argument(
            help="A recipe's folder, or an output that holds one recipe; with stored maps"
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="OUTPUT2", help="Where the new output goes; may be a URL")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="boxes.KEY=VALUE",
            help="A setting of boxes; the value is YAML. Repeatable: --set boxes.threshold=0.4 "
            "--set boxes.percentile=95",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make new boxes from stored maps: no image, no network, no GPU.

    Takes every key of the section boxes, such as --set boxes.threshold=0.4, and writes an output
    of its own, which says what it came from. Running it again does only what is new or changed in
    OUTPUT. Exit code: 0 everything is published, 1 a file was given up, 2 the request is wrong.
    """
    from cambox.console import Steps
    from cambox.rebox.rebox import print_rebox, rebox_output

    console = Console(stderr=as_json)
    with Steps(console) as steps:
        summary = rebox_output(output, to, overrides or [], steps.step("files"))
    print_rebox(summary, console)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if summary.failures:
        raise typer.Exit(1)
