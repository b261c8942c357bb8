"""Looking at annotations: pictures, what changed, how right they are, and better settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from cambox.cli.options import (
    ConfigPath,
    Json,
    OneRecipe,
    Overrides,
    Truth,
    app,
    configured,
    one_recipe,
)
from cambox.console import Steps, require_folder, say
from cambox.errors import RequestError


@app.command()
def gallery(
    output: OneRecipe,
    to: Annotated[
        Path, Option("--to", metavar="DIR", help="Folder for gallery.html and sheet.png")
    ] = Path("gallery"),
    sample: Annotated[int, Option(min=1, help="Rows to show")] = 1000,
    seed: Annotated[int, Option(min=0, help="Which rows; one seed, one sample")] = 0,
    most_shards: Annotated[
        int,
        Option(
            min=1, help="Shards that the sample comes from; each is read up to its last picture"
        ),
    ] = 64,
    suspects: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="suspects.parquet of cambox probe: show these pictures first, the most doubted "
            "label at the top",
        ),
    ] = None,
    pick: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="pick.parquet of cambox pick: show these pictures first, with the reasons",
        ),
    ] = None,
    beside: Annotated[
        str | None,
        Option(
            metavar="OUTPUT",
            help="Another recipe's output over the same shards: its boxes are drawn dashed, and "
            "pictures can be sorted by how much the two disagree",
        ),
    ] = None,
) -> None:
    """Make one HTML page to look at an output, and to say which boxes are right.

    It has pictures, boxes, maps, scores, and what failed and why. The page needs no server and no
    network. Its figures and plots are of all rows, read from a few columns; its pictures are a
    sample, read again from the shards. Accept, reject and name boxes by keyboard, and save that as
    a file. Exit code: 0 it is written, 2 the request is wrong.
    """
    from cambox.review.gallery.collect import collect
    from cambox.review.gallery.page import write_gallery
    from cambox.review.gallery.suspects import NO_SUSPECTS, read_pick, read_suspects

    console = Console()
    output = one_recipe(output, console)
    other = None if beside is None else one_recipe(beside, console)
    require_folder(to)
    first = NO_SUSPECTS
    if suspects is not None and pick is not None:
        raise RequestError("--suspects and --pick both say what stands first; give one of them")
    if suspects is not None:
        first = read_suspects(suspects)
    if pick is not None:
        first = read_pick(pick)
    with Steps(console) as steps:
        counted, shown = steps.step("files counted"), steps.step("rows shown")
        made = collect(output, sample, seed, most_shards, first, other, counted, shown)
    say(console, *(f"written: {path}" for path in write_gallery(made, to)))


@app.command()
def diff(
    output_a: OneRecipe,
    output_b: Annotated[str, Argument(help="The other")],
    to: Annotated[
        Path, Option("--to", metavar="DIR", help="Folder for diff.json and diff.png")
    ] = Path("diff"),
    pictures: Annotated[
        int, Option(min=0, help="The largest changes to draw, from the shards")
    ] = 12,
    as_json: Json = False,
) -> None:
    """Say what changed between two nights, or two recipes.

    Shards are matched by their URI, rows by their key, boxes by overlap within image and class:
    statuses, boxes lost and gained, how far the others moved, classes, and the largest changes
    side by side. Exit code: 0 they are compared, however much they differ; 2 the request is wrong.
    """
    from cambox.output.reading import open_recipe
    from cambox.review.diff.compare import compare
    from cambox.review.diff.write import print_difference, write_difference

    console = Console(stderr=as_json)
    recipe_a, recipe_b = (
        open_recipe(one_recipe(output, console)) for output in (output_a, output_b)
    )
    require_folder(to)
    with Steps(console) as steps:
        report, sheet = compare(recipe_a, recipe_b, pictures, steps.step("shards compared"))
    written = write_difference(report, sheet, to)
    print_difference(report, console)
    say(console, *(f"written: {path}" for path in written))
    if as_json:
        typer.echo(report.model_dump_json())


@app.command()
def evaluate(
    output: OneRecipe,
    truth: Truth,
    to: Annotated[
        Path, Option("--to", metavar="DIR", help="Folder for evaluation.json and .png")
    ] = Path("evaluation"),
    resamples: Annotated[
        int, Option(min=100, help="How often images are drawn anew for the 95 % intervals")
    ] = 1000,
    seed: Annotated[int, Option(min=0, help="Of these draws")] = 0,
    as_json: Json = False,
) -> None:
    """Compare an output with true boxes.

    Always beside a box in the middle of each image: GT-known and Top-1 localisation, CorLoc,
    MaxBoxAcc and MaxBoxAccV2 (where the maps are stored), COCO's average precision, and whether
    box_score says how likely a box is right. The report goes to the current folder and not to
    OUTPUT, whose readers expect Parquet. Exit code: 0 it is compared, 2 the request is wrong.
    """
    from cambox.review.truth import require_truth

    console = Console(stderr=as_json)
    # What can be wrong is told before the libraries of figures and plots are imported.
    output = one_recipe(output, console)
    require_truth(truth)
    require_folder(to)
    from cambox.review.evaluate.evaluate import evaluate as evaluate_output
    from cambox.review.evaluate.show import print_evaluation, write_evaluation

    with Steps(console) as steps:
        evaluation = evaluate_output(
            output,
            truth,
            resamples=resamples,
            seed=seed,
            on_file=steps.step("files read"),
            on_image=steps.step("images tried"),
        )
    written = write_evaluation(evaluation, to)
    print_evaluation(evaluation, console)
    say(console, *(f"written: {path}" for path in written))
    if as_json:
        typer.echo(evaluation.model_dump_json())


@app.command()
def tune(
    config: ConfigPath,
    truth: Truth,
    to: Annotated[Path, Option("--to", metavar="RECIPE.yaml", help="The configuration to write")],
    overrides: Overrides = None,
    tried: Annotated[
        list[str] | None,
        Option(
            "--try",
            metavar="SECTION.KEY=[VALUE, ...]",
            help="Also try these values, each combination of them: --try cam.refine.steps=[0,1,2]. "
            "Keys of boxes are read off the stored maps; any other takes a pass over the images. "
            "Repeatable",
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        Option(
            metavar="RECIPE",
            help="A recipe that competes, by name or file: its maps and boxes, with CONFIG's "
            "classifier and classes: cambox tune precise --beside scenes. Takes a pass. Repeatable",
        ),
    ] = None,
    shards: Annotated[
        list[str] | None,
        Option(
            help="Shards of the images with true boxes, in place of input.shards: every image in "
            "them takes a forward pass. Repeatable"
        ),
    ] = None,
    work: Annotated[
        str, Option(metavar="DIR", help="Folder for the passes; what is there is used again")
    ] = "tuning",
    objective: Annotated[
        str | None,
        Option(
            metavar="gt-known|v2|ap",
            help="gt-known: the first box of each given class at IoU 0.5 (default where "
            "cam.classes is label or both); v2: any box, mean over IoU 0.3, 0.5, 0.7; ap: AP50 "
            "of all boxes (default where it is predicted)",
        ),
    ] = None,
    folds: Annotated[int, Option(min=2, help="Parts that images are held out in")] = 5,
    seed: Annotated[int, Option(min=0, help="Of the folds and the intervals")] = 0,
    force: Annotated[
        bool, Option("--force", help="Take the best settings even if the gain may be noise")
    ] = False,
    as_json: Json = False,
) -> None:
    """Choose settings by true boxes; make box_score a probability.

    A few hundred images with true boxes are enough. Stores the maps of the images once, tries a
    grid of box settings over them by cross-validation, beside other recipes if you name any, and
    writes a configuration for cambox annotate. Settings change only where the gain on held-out
    images is above noise. Exit code: 0 the configuration is written, 2 the request is wrong.
    """
    settings = configured(config, overrides)
    from cambox.review.tune.report import print_tuning, require_place, write_recipe
    from cambox.review.tune.tune import TuneRequest
    from cambox.review.tune.tune import tune as tune_config

    console = Console(stderr=as_json)
    require_place(to)
    request = TuneRequest(
        config=settings,
        truth=truth,
        work=work,
        shards=tuple(shards) if shards else None,
        tried=tuple(tried or ()),
        beside=tuple(beside or ()),
        objective=objective,
        folds=folds,
        seed=seed,
        force=force,
    )
    tuned, tuning = tune_config(request, console)
    write_recipe(tuned, tuning, to)
    print_tuning(tuning, console)
    say(console, f"written: {to}")
    if as_json:
        typer.echo(tuning.model_dump_json())
