"""Whether annotations are whole, right, and as good as they could be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cambox.cli.options import (
    ConfigPath,
    Json,
    Overrides,
    app,
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
    from cambox.verify.report import FileCounter, print_verification, to_json
    from cambox.verify.verify import verify as verify_output

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
    from cambox.review.evaluate.evaluate import evaluate as evaluate_output
    from cambox.review.evaluate.files import require_folder, write_evaluation
    from cambox.review.evaluate.text import print_evaluation
    from cambox.verify.report import FileCounter

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
    from cambox.config_file import load_config
    from cambox.review.tune.objective import require_objective
    from cambox.review.tune.text import print_tuning
    from cambox.review.tune.tune import TuneRequest
    from cambox.review.tune.tune import tune as tune_config
    from cambox.review.tune.write import require_writable, write_recipe

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
