"""The way of boxes through people's eyes: which to look at, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from cambox.cli.options import Json, OneRecipe, ShardsAt, app, one_recipe
from cambox.console import Steps, counted, require_folder, say
from cambox.errors import RequestError

SHOWN = 5


@app.command("pick")
def pick_images(
    output: OneRecipe,
    to: Annotated[Path, Option("--to", metavar="FILE", help="The Parquet file to write")] = Path(
        "pick.parquet"
    ),
    count: Annotated[int, Option(min=1, help="Images to pick")] = 500,
    beside: Annotated[
        str | None,
        Option(metavar="OUTPUT2", help="Another recipe: also where the two disagree"),
    ] = None,
    seed: Annotated[int, Option(min=0, help="Among images of equal worth")] = 0,
    as_json: Json = False,
) -> None:
    """Pick the images that are most worth a person's minute.

    By doubt (a box_score near 0.5, which says most once tune has made it a probability), by
    disagreement with another recipe, as many of each class, the rarest first, and unlike what was
    reviewed already; with a reason for each. cambox export takes the file with --pick. Exit code: 0
    it is written, 2 the request is wrong.
    """
    from cambox.console import write_files
    from cambox.output.reading import open_recipe
    from cambox.review.pick import pick, pick_file, summary

    console = Console(stderr=as_json)
    recipe, other = (
        None if one is None else open_recipe(one_recipe(one, console)) for one in (output, beside)
    )
    assert recipe is not None
    require_folder(to.absolute().parent)
    with Steps(console) as steps:
        picks = pick(recipe, count, seed, other, steps.step("files read"))
    (written,) = write_files(to.parent, {to.name: pick_file(picks)})
    counts = summary(picks, recipe.footer.classes)
    classes = ", ".join(f"{name} {number}" for name, number in counts["by_class"].items())
    say(console, *(f"{one.rank}. {one.key}: {one.reason}" for one in picks[:SHOWN]))
    say(console, f"{counted(len(picks), 'image')}: {classes}", f"written: {written}")
    if as_json:
        typer.echo(json.dumps(counts))


@app.command()
def corrections(
    file: Annotated[
        str | None,
        Argument(
            help="What people exported: Label Studio's JSON, CVAT's XML (CVAT for images 1.1), "
            "COCO JSON, or a review saved in the gallery; a path or URL"
        ),
    ] = None,
    output: Annotated[
        str | None,
        Argument(help="A recipe's folder, or an output: its only recipe, or its latest one"),
    ] = None,
    to: Annotated[
        Path, Option("--to", metavar="DIR", help="Folder for corrections.json, the counts")
    ] = Path("corrections"),
    truth_to: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Also write the boxes as true ones for evaluate and tune: COCO where it ends in "
            ".json, else CSV",
        ),
    ] = None,
    shards_at: ShardsAt = None,
    check: Annotated[
        str | None,
        Option(
            metavar="OUTPUT",
            help="In place of FILE: look whether reviewed pictures are still in shards that have "
            "changed",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take what people corrected: their boxes stand for the pseudo boxes from now on.

    Reviewed rows are kept in OUTPUT by shard, key and the SHA-256 of the picture, so the next night
    does not lose them, and a picture that changes does. All readers and exports take them; evaluate
    and tune judge what the recipe made, and do not. Exit code: 0 all is taken, 1 some images or
    classes of the file are none of the output's, 2 the request is wrong.
    """
    console = Console(stderr=as_json)
    if check is not None:
        if file is not None:
            raise RequestError("--check looks at what is there already; leave FILE out")
        _check(check, console, as_json)
        return
    if file is None or output is None:
        raise RequestError("corrections: name the file and the output, or --check OUTPUT")
    from cambox.review.corrections.report import print_taken, to_json, write_report, write_truth
    from cambox.review.corrections.take import take_corrections

    output = one_recipe(output, console)
    require_folder(to)
    with Steps(console) as steps:
        taken = take_corrections(
            file, output, shards_at, steps.step("files read"), steps.step("shards read")
        )
    print_taken(taken, console)
    written = write_report(taken, to)
    if truth_to is not None:
        rows = write_truth(taken, truth_to)
        say(console, f"written: {truth_to}, true boxes of {rows} images")
    say(console, *(f"written: {path}" for path in written))
    if as_json:
        typer.echo(json.dumps(to_json(taken)))
    if not taken.complete:
        raise typer.Exit(1)


def _check(output: str, console: Console, as_json: bool) -> None:
    from cambox.output.reading import open_recipe
    from cambox.output.recheck import recheck
    from cambox.sources.retry import as_request

    recipe = open_recipe(one_recipe(output, console), reviewed=False)
    with Steps(console) as steps, as_request(f"{output} cannot be checked"):
        found = recheck(recipe.uri, recipe.image_rule, on_shard=steps.step("shards read"))
    say(console, *(found.lines() or ["all reviewed rows were checked before"]))
    if as_json:
        typer.echo(json.dumps({**vars(found)}))
    if found.failures:
        raise typer.Exit(1)
