"""A detector: trained on an output's boxes, and its own boxes as another recipe."""

from __future__ import annotations

import json
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
    configured,
    one_recipe,
)
from cambox.console import Steps, require_folder
from cambox.detect import ABOUT_FILE, BoxWeights, DetectorKind
from cambox.errors import RequestError

detect = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(detect, name="detect")


@detect.callback()
def about() -> None:
    """Train a detector on an output, and let it make boxes: the second round.

    A class activation map covers what the class is told by; a detector that sees many such boxes
    learns what they have in common, the whole object. `cambox detect train OUT --to DIR` trains
    one, `cambox detect apply DIR OUT --to OUT2` writes its boxes of the same images as another
    recipe, for which every command works that does for OUT.
    """


@detect.command()
def train(
    output: OneRecipe,
    to: Annotated[
        Path, Option("--to", metavar="DIR", help="Folder for the detector, its report, checkpoints")
    ],
    detector: Annotated[
        DetectorKind,
        Option(help="fcos: no anchors; retinanet, fasterrcnn: with them; ssdlite: small and quick"),
    ] = DetectorKind.fcos,
    backbone: Annotated[
        str | None,
        Option(
            metavar="CONFIG",
            help="A configuration or recipe whose classifier, without its head, the detector "
            "begins from; without it torchvision's ResNet-50 (ssdlite: MobileNetV3), with weights "
            "from its hub",
        ),
    ] = None,
    weights: Annotated[
        BoxWeights,
        Option(
            help="score: a box counts in the loss as its box_score is to the mean of all; none: "
            "all alike. A box_score is a probability only where cambox tune calibrated it"
        ),
    ] = BoxWeights.score,
    side: Annotated[
        int, Option(min=64, help="Pixels of an image's longer side; ssdlite takes 320 x 320")
    ] = 512,
    epochs: Annotated[int, Option(min=1, help="Passes over the images, at most")] = 24,
    batch_size: Annotated[int, Option(min=1, help="Images of a step, of each process")] = 8,
    lr: Annotated[float, Option(min=0, help="The highest learning rate, of AdamW")] = 3e-4,
    val: Annotated[
        float, Option(min=0, max=0.9, help="The share held out, by a hash of the images' keys")
    ] = 0.1,
    patience: Annotated[
        int, Option(min=1, help="End after so many epochs without a better AP of that share")
    ] = 6,
    seed: Annotated[int, Option(min=0, help="Of the head, the order and the changes")] = 0,
    min_score: MinScore = 0.0,
    max_rank: MaxRank = None,
    only_labels: OnlyLabels = False,
    classes: Annotated[
        str | None, Option(metavar="ID,ID,...", help="Only boxes of these class ids")
    ] = None,
    max_component: MaxComponent = None,
    keep_empty: KeepEmpty = False,
    shards_at: ShardsAt = None,
    as_json: Json = False,
) -> None:
    """Train a detector of torchvision on an output's boxes.

    Reads the images from their shards, which must be uncompressed tars or chunks. Some of them are
    held out to say when to stop; their boxes are guessed as well, so how good the detector is only
    `cambox evaluate` with true boxes tells. Writes DIR/detector.safetensors, detector.json and
    report.json. Killed and started again, it goes on from its last checkpoint, which is written
    after each epoch and every ten minutes. On a GPU it computes in mixed precision; several take
    `torchrun --nproc-per-node 8 -m cambox detect train ...`, with --batch-size for each. Exit code:
    0 it is trained, 2 the request is wrong.
    """
    console = Console(stderr=as_json)
    # What can be wrong is told before torch is imported.
    if detector is DetectorKind.ssdlite and backbone is not None:
        raise RequestError("--backbone: ssdlite has its own; leave it out, or take fcos")
    if detector is DetectorKind.ssdlite and batch_size < 2:
        raise RequestError("--batch-size: ssdlite has norms that take 2 images or more")
    settings = None if backbone is None else configured(Path(backbone), None).model
    recipe = one_recipe(output, console)
    require_folder(to)
    from cambox.training.selection import Selection, class_ids

    selection = Selection(
        min_score=min_score,
        max_rank=max_rank,
        only_labels=only_labels,
        classes=None if classes is None else class_ids(classes),
        max_component=max_component,
        keep_empty=keep_empty,
    )
    from cambox.detect.train import TrainRequest
    from cambox.detect.train import train as train_detector

    request = TrainRequest(
        recipe,
        to,
        detector,
        settings,
        selection,
        weights,
        side=side,
        val=val,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        patience=patience,
        seed=seed,
        shards_at=shards_at,
    )
    report = train_detector(request, console)
    if as_json:
        typer.echo(json.dumps(report))


@detect.command()
def apply(
    detector: Annotated[Path, Argument(metavar="DIR", help="What cambox detect train wrote")],
    output: OneRecipe,
    to: Annotated[
        str, Option("--to", metavar="OUT2", help="Where the new output goes; may be a URL")
    ],
    min_score: Annotated[
        float,
        Option(min=0, max=1, help="Leave out boxes of a lower score; 0.05 to measure precision by"),
    ] = 0.3,
    max_boxes: Annotated[
        int | None, Option(min=1, help="The best so many of each class in an image; all if not set")
    ] = None,
    any_class: Annotated[
        bool,
        Option(
            "--any-class",
            help="Also boxes of classes that are predicted and not given, and of unlabelled images",
        ),
    ] = False,
    batch_size: Annotated[int, Option(min=1, help="Images at a time")] = 8,
    shards_at: ShardsAt = None,
    as_json: Json = False,
) -> None:
    """Write a detector's boxes of an output's images as another recipe.

    Everything but the boxes stays as it is in OUTPUT. An image that has labels gets boxes of these
    alone, one without gets boxes of its predicted classes; box_score is the detector's. Running it
    again does only what is new or changed. Exit code: 0 everything is published, 1 a shard was
    given up, 2 the request is wrong.
    """
    console = Console(stderr=as_json)
    recipe = one_recipe(output, console)
    if not (detector / ABOUT_FILE).is_file():
        raise RequestError(
            f"{detector} holds no {ABOUT_FILE}; name the folder that cambox detect train wrote"
        )
    from cambox.detect.apply import ApplyRequest
    from cambox.detect.apply import apply as apply_detector
    from cambox.detect.rows import Rule
    from cambox.output.derived import print_derived

    rule = Rule(min_score, max_boxes, any_class)
    request = ApplyRequest(detector, recipe, to, rule, batch_size, shards_at)
    with Steps(console) as steps:
        derived = apply_detector(request, steps.step("files"))
    print_derived(derived, "looked at", recipe, console)
    if as_json:
        typer.echo(json.dumps(derived.to_json()))
    if derived.failures:
        raise typer.Exit(1)
