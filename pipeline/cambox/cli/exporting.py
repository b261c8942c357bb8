"""From annotations to what a detector trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cambox.cli.options import (
    app,
)
from cambox.export.formats import Format


@app.command()
def export(
    output: Annotated[
        str, typer.Argument(help="A recipe's folder, or an output that holds one recipe")
    ],
    to_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="COCO JSON, YOLO text files, Pascal VOC XML, or Parquet for Hugging Face datasets",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that is not there yet")],
    images: Annotated[
        bool,
        typer.Option(
            "--images",
            help="Extract the images, upright; without it the export says of each its shard and "
            "key, and takes its name to end in .jpg",
        ),
    ] = False,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out boxes with a lower box_score")
    ] = 0.0,
    max_rank: Annotated[
        int | None,
        typer.Option(min=0, help="Leave out predicted classes of a higher rank; labels have 0"),
    ] = None,
    only_labels: Annotated[
        bool, typer.Option("--only-labels", help="Only boxes of given labels")
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(metavar="ID,ID,...", help="Only these class ids, numbered in this order"),
    ] = None,
    present_classes: Annotated[
        bool,
        typer.Option(
            "--present-classes",
            help="Number only classes that have a box; without it numbers stay as new images come",
        ),
    ] = False,
    max_component: Annotated[
        int | None,
        typer.Option(min=0, help="Boxes of each class in an image: 0 the best only, 1 two, ..."),
    ] = None,
    keep_empty: Annotated[
        bool,
        typer.Option(
            "--keep-empty", help="Also images without a box: the detector learns they are empty"
        ),
    ] = False,
    status: Annotated[
        list[str] | None,
        typer.Option(help="Images of this status, ok unless given; repeatable: --status no_label"),
    ] = None,
    shards_at: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the shards are now, if moved; a folder or URL"),
    ] = None,
) -> None:
    """Write boxes for a detector's training as COCO, YOLO, Pascal VOC or Hugging Face Parquet.

    All of the recipe's classes are numbered, from 1 in COCO and from 0 in YOLO and Hugging Face;
    DIR/cambox.json says which number is which class, what was asked for and what was left out.
    DIR appears when it is whole. Exit code: 0 it is exported, 2 the request is wrong.
    """
    from cambox.console import Steps
    from cambox.export.export import ExportRequest
    from cambox.export.export import export as export_output
    from cambox.export.report import print_report
    from cambox.training.selection import Selection, class_ids

    selection = Selection(
        min_score=min_score,
        max_rank=max_rank,
        only_labels=only_labels,
        classes=None if classes is None else class_ids(classes),
        max_component=max_component,
        keep_empty=keep_empty,
        **({} if status is None else {"statuses": tuple(status)}),
    )
    request = ExportRequest(output, to_format, to, selection, present_classes, images, shards_at)
    console = Console()
    with Steps(console) as steps:
        report = export_output(request, steps.step("images"))
    print_report(report, to, console)
