"""From labelled pictures to a classifier of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from typer import Option

from cambox.cli.options import ConfigPath, EngineName, Json, Overrides, app, configured
from cambox.console import say


@app.command()
def probe(
    config: ConfigPath,
    to: Annotated[
        Path, Option("--to", metavar="DIR", help="Folder for the classifier and its recipe")
    ],
    overrides: Overrides = None,
    engine: EngineName = None,
    background: Annotated[
        str | None,
        Option(
            metavar="CLASS",
            help="The class of pictures without any object. One that the labels do not have is "
            "added, for pictures whose label is there and empty. Such pictures get no boxes, nor "
            "do predicted classes that are less likely than it",
        ),
    ] = None,
    activation: Annotated[
        Literal["softmax", "sigmoid"] | None,
        Option(
            help="softmax: one class a picture; sigmoid: several. Without it, sigmoid where any "
            "picture has none or several labels"
        ),
    ] = None,
    balanced: Annotated[
        bool,
        Option(
            "--balanced/--as-they-are",
            help="Whether pictures of rare classes count for more in training; probabilities are "
            "of classes as frequent as they are in either case",
        ),
    ] = True,
    features: Annotated[
        str | None,
        Option(
            metavar="URI",
            help="Folder for the features, which all workers reach; DIR/features unless given",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the last layer of a network on the labels of the shards.

    Labels are enough: no classifier of your classes is needed, any network of CONFIG that knows
    other ones does. Reads every picture once and stores what the last layer sees (about 5 kB a
    picture), as annotating reads them, on Ray too; running it again reads only what is new. Then
    fits a linear layer, its regularisation and its probabilities held out, and writes
    DIR/classifier.safetensors, class_names.txt, report.json (accuracy, each class, the worst
    pairs), suspects.parquet (labels that are probably wrong) and recipe.yaml: cambox annotate
    DIR/recipe.yaml. Exit code: 0 they are written, 1 a shard was given up, 2 the request is wrong.
    """
    settings = configured(config, overrides, engine)
    console = Console(stderr=as_json)
    say(console, "loading torch")
    from cambox.linear_probe.probe import ProbeRequest, UnfinishedError
    from cambox.linear_probe.probe import probe as train_probe
    from cambox.linear_probe.report import print_report
    from cambox.summary import print_summary

    request = ProbeRequest(
        settings, to, features or f"{to}/features", background, activation, balanced
    )
    try:
        report = train_probe(request, console)
    except UnfinishedError as error:
        print_summary(error.summary, console)
        raise typer.Exit(1) from error
    print_report(report, console)
    say(console, f"annotate with it: cambox annotate {to}/recipe.yaml")
    if as_json:
        typer.echo(report.model_dump_json())
