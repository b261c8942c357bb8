"""Outputs made of outputs: other boxes from stored maps, and the boxes of two together."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from cambox.cli.options import Json, OneRecipe, app, one_recipe
from cambox.console import Steps
from cambox.errors import RequestError
from cambox.fuse import Rule

To = Annotated[
    str, Option("--to", metavar="OUTPUT2", help="Where the new output goes; may be a URL")
]


@app.command()
def rebox(
    output: OneRecipe,
    to: To,
    overrides: Annotated[
        list[str] | None,
        Option(
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
    console = Console(stderr=as_json)
    # Whether there is one is known before the compiler of boxes is imported.
    output = one_recipe(output, console)
    from cambox.output.derived import print_derived
    from cambox.rebox.rebox import rebox_output

    with Steps(console) as steps:
        summary = rebox_output(output, to, overrides or [], steps.step("files"))
    print_derived(summary, "reboxed", output, console)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if summary.failures:
        raise typer.Exit(1)


@app.command()
def fuse(
    output_a: OneRecipe,
    output_b: Annotated[str, Argument(help="Another of the same shards and classes")],
    to: To,
    rule: Annotated[
        Rule,
        Option(
            help="fuse: weighted boxes fusion of all; agree: what both have, fused; union: A's, "
            "and B's that A has not; replace: B's for images and classes that have any, else A's"
        ),
    ] = Rule.fuse,
    iou: Annotated[
        float, Option(min=0.01, max=1, help="From which on two boxes of a class are the same")
    ] = 0.55,
    weights: Annotated[
        str | None,
        Option(metavar="A,B", help="fuse, agree: what the box_scores of each count; 1,1 if absent"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make one output of two: of two networks, or of two rounds.

    Both are of the same shards. Writes an output of its own, which says what it came from; rows
    are A's, but for the boxes. Running it again does only what is new or changed. Exit code: 0
    everything is published, 1 a shard was given up or only one output has it, 2 the request is
    wrong.
    """
    from cambox.fuse.fuse import fuse_outputs
    from cambox.fuse.rows import Fusion
    from cambox.output.derived import print_derived

    fusion = Fusion(rule, iou, _two_weights(weights, rule))
    console = Console(stderr=as_json)
    output_a, output_b = (one_recipe(output, console) for output in (output_a, output_b))
    with Steps(console) as steps:
        summary = fuse_outputs(output_a, output_b, to, fusion, steps.step("files"))
    print_derived(summary, "fused", output_a, console)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if summary.failures:
        raise typer.Exit(1)


def _two_weights(text: str | None, rule: Rule) -> tuple[float, float]:
    if text is None:
        return 1.0, 1.0
    if rule not in (Rule.fuse, Rule.agree):
        raise RequestError(f"--weights has no meaning with --rule {rule.value}; leave it out")
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        first = second = math.nan
    if not (0 < first < math.inf and 0 < second < math.inf):
        raise RequestError(f"--weights: {text} is not two numbers above 0, such as 2,1")
    return first, second
