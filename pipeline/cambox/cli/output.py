"""What is done with an output: proved, listed, and handed to a detector."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from cambox.cli.options import (
    Json,
    KeepEmpty,
    MaxComponent,
    MaxRank,
    MinScore,
    OneRecipe,
    OnlyLabels,
    ShardsAt,
    app,
    one_recipe,
)
from cambox.console import Steps
from cambox.export import Format


@app.command()
def verify(
    output: Annotated[
        str,
        Argument(help="An output (every recipe in it is checked) or one recipe's folder"),
    ],
    against_input: Annotated[
        bool,
        Option(
            "--against-input",
            help="Read every shard again: the rows must be its samples, all and in order",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read an output whole and prove that it keeps its promise.

    Every file is complete, holds its shard's rows once, says truly which recipe made it, and has
    only boxes that lie in their images. Exit code: 0 all is well, 1 something is wrong, 2 there
    is no such output.
    """
    from cambox.verify.verify import print_verification
    from cambox.verify.verify import verify as verify_output

    console = Console(stderr=as_json)
    with Steps(console) as steps:
        result = verify_output(
            output, against_input=against_input, on_file=steps.step("files verified")
        )
    if as_json:
        typer.echo(result.to_json())
    else:
        print_verification(result, console)
    if not result.ok:
        raise typer.Exit(1)


@app.command("list")
def list_output(
    output: Annotated[str, Argument(help="An output, or one recipe's folder")],
    as_json: Json = False,
) -> None:
    """List the recipes that an output holds, the oldest first.

    Says of each when its newest file was written, its rows, whether it is `latest`, and which
    settings differ from the one before. Reads only footers. Exit code: 0 they are listed, 2 there
    is no such output.
    """
    from cambox.output.history import list_recipes, print_recipes

    console = Console(stderr=as_json)
    with Steps(console) as steps:
        recipes = list_recipes(output, steps.step("recipes read"))
    if as_json:
        typer.echo(json.dumps([recipe.to_json() for recipe in recipes]))
    else:
        print_recipes(recipes, console)


@app.command()
def prune(
    output: Annotated[str, Argument(help="An output, the folder that holds the recipes' folders")],
    keep: Annotated[
        int, Option(min=1, metavar="N", help="Manifests of each recipe that stay, the newest")
    ] = 14,
    delete: Annotated[
        bool, Option("--delete", help="Remove it; without it nothing is removed, only listed")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find, and with --delete remove, what only old manifests need.

    A night's manifest names files, and those that were replaced since are kept for it. Of each
    recipe the newest N manifests stay with all that they name, and the one that `latest` names;
    files in the recipes' folders are never touched. Exit code: 0 it is done, 1 a run is at work,
    2 the request is wrong.
    """
    from cambox.config import OutputSettings
    from cambox.output.prune import print_pruned
    from cambox.output.prune import prune as prune_output

    pruned = prune_output(OutputSettings(uri=output), keep, datetime.now(UTC), delete=delete)
    if as_json:
        typer.echo(json.dumps({"deleted": delete, "recipes": [one.to_json() for one in pruned]}))
    else:
        print_pruned(pruned, delete, Console())


@app.command()
def export(
    output: OneRecipe,
    to_format: Annotated[
        Format,
        Option(
            "--format",
            help="To train on: COCO JSON, YOLO text files, Pascal VOC XML, or Parquet for Hugging "
            "Face datasets. To judge: COCO's list of results. To review in: Label Studio, CVAT, "
            "FiftyOne",
        ),
    ],
    to: Annotated[Path, Option("--to", metavar="DIR", help="A folder that is not there yet")],
    images: Annotated[
        bool,
        Option(
            "--images",
            help="Extract the images, upright; without it the export says of each its shard and "
            "key, and takes its name to end in .jpg",
        ),
    ] = False,
    min_score: MinScore = 0.0,
    max_rank: MaxRank = None,
    only_labels: OnlyLabels = False,
    classes: Annotated[
        str | None,
        Option(metavar="ID,ID,...", help="Only these class ids, numbered in this order"),
    ] = None,
    present_classes: Annotated[
        bool,
        Option(
            "--present-classes",
            help="Number only classes that have a box; without it numbers stay as new images come",
        ),
    ] = False,
    max_component: MaxComponent = None,
    keep_empty: KeepEmpty = False,
    status: Annotated[
        list[str] | None,
        Option(help="Images of this status, ok unless given; repeatable: --status no_label"),
    ] = None,
    pick: Annotated[
        str | None,
        Option(metavar="FILE", help="Only the images of a cambox pick, also those without a box"),
    ] = None,
    shards_at: ShardsAt = None,
    val: Annotated[
        float | None,
        Option(
            metavar="SHARE",
            help="yolo: the share of the images to validate with, by a hash of their keys; 0.1 "
            "unless given",
        ),
    ] = None,
    fractions: Annotated[
        bool,
        Option("--fractions", help="voc: corners with fractions of pixels, which not all read"),
    ] = False,
    image_root: Annotated[
        str | None,
        Option(
            metavar="ROOT",
            help="coco, coco-results, labelstudio, cvat, fiftyone: where your own images are, so "
            "that none is copied: a folder or URL that their paths are put behind, or one with "
            "{key} in it, such as photos/{key}.png",
        ),
    ] = None,
    masks: Annotated[
        bool,
        Option("--masks", help="coco: masks from the stored maps (output.store_maps), as RLE"),
    ] = False,
    truth: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="coco-results: the COCO dataset whose image and category ids the results have, "
            "by file name and class name",
        ),
    ] = None,
) -> None:
    """Write boxes as files that a detector trains on, or that people review.

    All of the recipe's classes are numbered, from 1 in COCO and from 0
    in YOLO and Hugging Face; DIR/cambox.json says which number is which class, what was asked for
    and what was left out. DIR appears when it is whole. Exit code: 0 it is exported, 2 the request
    is wrong.
    """
    from cambox.export.export import export as export_output
    from cambox.export.export import print_report
    from cambox.export.request import ExportRequest
    from cambox.training.selection import Selection, class_ids

    selection = Selection(
        min_score=min_score,
        max_rank=max_rank,
        only_labels=only_labels,
        classes=None if classes is None else class_ids(classes),
        max_component=max_component,
        keep_empty=keep_empty,
        pick=pick,
        **({} if status is None else {"statuses": tuple(status)}),
    )
    console = Console()
    request = ExportRequest(
        one_recipe(output, console),
        to_format,
        to,
        selection,
        present_classes=present_classes,
        with_images=images,
        shards_at=shards_at,
        val=val,
        fractions=fractions,
        image_root=image_root,
        masks=masks,
        truth=truth,
    )
    with Steps(console) as steps:
        report = export_output(request, steps.step("images"))
    print_report(report, to, console)
