"""The ``cambox`` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from packaging.version import InvalidVersion, Version
from rich.console import Console
from rich.markup import escape

from pipeline.annotations.export.formats import Format
from pipeline.errors import RequestError

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


@app.callback()
def _commands() -> None:
    """Keeps sub-commands even while there is only one."""


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
    from pipeline.config import load_config
    from pipeline.run import print_summary, run

    console = Console(stderr=as_json)
    settings = load_config(config, with_engine(overrides, engine))
    summary = run(settings, console, _version(redo_older_than))
    print_summary(summary, console)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if not summary.complete:
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

    Reads the input's listing and the footers of what is published; opens no shard.
    """
    from pipeline.config import load_config
    from pipeline.run import prepare

    console = Console(stderr=as_json)
    settings = load_config(config, with_engine(overrides, engine))
    ready, work = prepare(settings, console, _version(redo_older_than))
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

    from pipeline.sources.pack import pack as write_shards

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
def verify(
    output: Annotated[
        str,
        typer.Argument(help="An output (every recipe in it is checked) or one recipe's folder"),
    ],
    against_input: Annotated[
        bool,
        typer.Option(
            "--against-input",
            help="Read every shard again: the rows must be its samples, all and in order",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else")
    ] = False,
) -> None:
    """Read an output whole and prove that it keeps its promise.

    Every file is complete, holds its shard's rows once, says truly which recipe made it, and has
    only boxes that lie in their images. Exit code: 0 all is well, 1 something is wrong, 2 there
    is no such output.
    """
    from pipeline.annotations.verify import verify as verify_output
    from pipeline.annotations.verify_report import FileCounter, print_verification, to_json

    if as_json:
        result = verify_output(output, against_input=against_input)
        typer.echo(to_json(result))
    else:
        console = Console()
        with FileCounter(console) as counter:
            result = verify_output(output, against_input=against_input, on_file=counter.advance)
        print_verification(result, console)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def evaluate(
    output: Annotated[
        str, typer.Argument(help="A recipe's folder, or an output that holds one recipe")
    ],
    truth: Annotated[
        str,
        typer.Option(
            "--truth",
            metavar="FILE",
            help="CSV with image,x_min,y_min,x_max,y_max and perhaps class_index (pixels of the "
            "upright image, half-open), or COCO JSON; a path or URL",
        ),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="Folder for evaluation.json and .png")
    ] = Path("evaluation"),
    resamples: Annotated[
        int, typer.Option(min=100, help="How often images are drawn anew for the 95 % intervals")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of these draws")] = 0,
    as_json: Json = False,
) -> None:
    """Compare an output with true boxes, always beside a box in the middle of each image.

    GT-known and Top-1 localisation, CorLoc, MaxBoxAcc and MaxBoxAccV2 (where the maps are
    stored), COCO's average precision, and whether box_score says how likely a box is right. The
    report goes to the current folder and not to OUTPUT, whose readers expect Parquet. Exit code:
    0 it is compared, 2 the request is wrong.
    """
    from pipeline.annotations.verify_report import FileCounter
    from pipeline.review.evaluate import evaluate as evaluate_output
    from pipeline.review.evaluation_files import require_folder, write_evaluation
    from pipeline.review.evaluation_text import print_evaluation

    console = Console(stderr=as_json)
    require_folder(to)
    with FileCounter(console, "evaluate") as counter:
        evaluation = evaluate_output(
            output, truth, resamples=resamples, seed=seed, on_file=counter.advance
        )
    written = write_evaluation(evaluation, to)
    print_evaluation(evaluation, console)
    for path in written:
        console.print(escape(f"written: {path}"), highlight=False, soft_wrap=True)
    if as_json:
        typer.echo(evaluation.model_dump_json())


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
    from pipeline.annotations.export.progress import ImageCounter, print_report
    from pipeline.annotations.export.run import ExportRequest
    from pipeline.annotations.export.run import export as export_output
    from pipeline.annotations.selection import Selection, class_ids

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
    with ImageCounter(console) as counter:
        report = export_output(request, counter.show)
    print_report(report, to, console)


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
    from pipeline.review.evaluation_files import require_folder
    from pipeline.review.gallery.collect import GalleryRequest, collect
    from pipeline.review.gallery.write import write_gallery
    from pipeline.steps import Steps

    console = Console()
    require_folder(to)
    request = GalleryRequest(output, sample, seed, most_shards)
    with Steps(console) as steps:
        made = collect(request, steps.step("files counted"), steps.step("rows shown"))
    for path in write_gallery(made, to):
        console.print(escape(f"written: {path}"), highlight=False, soft_wrap=True)


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
    from pipeline.rebox.run import print_rebox, rebox_output
    from pipeline.steps import Steps

    console = Console(stderr=as_json)
    with Steps(console) as steps:
        summary = rebox_output(output, to, overrides or [], steps.step("files"))
    print_rebox(summary, console)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if summary.failures:
        raise typer.Exit(1)


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
    from pipeline.review.diff.compare import Output, compare
    from pipeline.review.diff.pictures import picture_changes, with_problems
    from pipeline.review.diff.write import print_difference, write_difference
    from pipeline.review.evaluation_files import require_folder
    from pipeline.steps import Steps

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
def tune(
    config: ConfigPath,
    truth: Annotated[
        str,
        typer.Option(
            "--truth",
            metavar="FILE",
            help="True boxes of a few hundred images, in the formats of cambox evaluate",
        ),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="RECIPE.yaml", help="The configuration to write")
    ],
    overrides: Overrides = None,
    tried: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="SECTION.KEY=[VALUE, ...]",
            help="Also try these values, each combination of them: --try cam.refine.steps=[0,1,2]. "
            "Keys of boxes are read off the stored maps; any other takes a pass over the images. "
            "Repeatable",
        ),
    ] = None,
    shards: Annotated[
        list[str] | None,
        typer.Option(
            help="Shards of the images with true boxes, in place of input.shards: every image in "
            "them takes a forward pass. Repeatable"
        ),
    ] = None,
    work: Annotated[
        str, typer.Option(metavar="DIR", help="Folder for the passes; what is there is used again")
    ] = "tuning",
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="gt-known|v2|ap",
            help="gt-known: the first box of each given class at IoU 0.5 (default where "
            "cam.classes is label or both); v2: any box, mean over IoU 0.3, 0.5, 0.7; ap: AP50 "
            "of all boxes (default where it is predicted)",
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that images are held out in")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds and the intervals")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Take the best settings even if the gain may be noise")
    ] = False,
    as_json: Json = False,
) -> None:
    """Choose settings with a few hundred true boxes, and make box_score a probability.

    Stores the maps of the images once, tries a grid of box settings over them by cross-validation,
    and writes a configuration for cambox annotate. Settings change only where the gain on held-out
    images is above noise. Exit code: 0 the configuration is written, 2 the request is wrong.
    """
    from pipeline.config import load_config
    from pipeline.review.tune.objective import require_objective
    from pipeline.review.tune.run import TuneRequest
    from pipeline.review.tune.run import tune as tune_config
    from pipeline.review.tune.text import print_tuning
    from pipeline.review.tune.write import require_writable, write_recipe

    console = Console(stderr=as_json)
    require_writable(to)
    request = TuneRequest(
        config=load_config(config, overrides or []),
        truth=truth,
        work=work,
        shards=tuple(shards) if shards else None,
        tried=tuple(tried or ()),
        objective=require_objective(objective),
        folds=folds,
        seed=seed,
        force=force,
    )
    tuned, tuning = tune_config(request, console)
    write_recipe(tuned, tuning, to)
    print_tuning(tuning, console)
    console.print(escape(f"written: {to}"), highlight=False, soft_wrap=True)
    if as_json:
        typer.echo(tuning.model_dump_json())


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
    from pipeline.review.models import inspect_models, matching_models, print_models, to_json

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
    from pipeline.demo.run import run_demo

    if not run_demo(to, Console()).complete:
        raise typer.Exit(1)


def _version(text: str | None) -> Version | None:
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


def main() -> None:
    """Run ``cambox``."""
    carry_out(app)


if __name__ == "__main__":
    main()
