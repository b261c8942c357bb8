"""Looking at one sample, and at the figures of all: no model is loaded, and nothing changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from cambox.cli.options import Json, OneRecipe, app, one_recipe
from cambox.console import Steps, require_folder, say, write_files

Picture = Annotated[
    Path | None, Option("--to", metavar="FILE.png", help="Write the picture there, as a PNG")
]


@app.command()
def show(
    output: OneRecipe,
    key: Annotated[str, Argument(help="Of the sample: its path in the shard, without a suffix")],
    shard: Annotated[
        str | None,
        Option(help="Which shard, where several have the key: its URI, or the end of it"),
    ] = None,
    to: Picture = None,
    as_json: Json = False,
) -> None:
    """Show one sample: its picture with boxes and maps, its row, its recipe.

    The picture goes to a file, or into the terminal: as an image where that is kitty, Ghostty,
    iTerm2 or WezTerm, else of coloured half blocks. Finds the row by the column of keys alone, and
    reads the shard up to the sample. Exit code: 0 it is shown; 1 it has no picture, and --to asks
    for one; 2 the request is wrong, or several shards have the key, which are then named.
    """
    console = Console(stderr=as_json)
    output = one_recipe(output, console)
    if to is not None:
        require_folder(to.parent)
    from cambox.review.draw import draw
    from cambox.review.sheet import png
    from cambox.review.show.find import find_sample
    from cambox.review.show.picture import draw_sample, lines, to_json
    from cambox.review.show.terminal import print_picture, side_in_blocks, way_of

    sample = find_sample(output, key, shard)
    if sample.image is None:
        say(console, f"no picture: {sample.problem}")
    elif to is not None:
        (path,) = write_files(to.parent, {to.name: png(draw_sample(sample))})
        say(console, f"written: {path}")
    elif console.is_terminal and not as_json:
        way = way_of(os.environ)
        if way == "blocks":
            height, width = sample.image.shape[:2]
            side = side_in_blocks(height, width, console.width)
            picture = draw(sample.image, sample.row["objects"], side=side, labels=False)
        else:
            picture = draw_sample(sample)
        print_picture(picture, way, console)
    if as_json:
        typer.echo(json.dumps(to_json(sample)))
    else:
        say(console, *lines(sample))
    if sample.image is None and to is not None:
        raise typer.Exit(1)


@app.command()
def stats(output: OneRecipe, to: Picture = None, as_json: Json = False) -> None:
    """Count an output: statuses, boxes by class and size, balance, and what is new.

    Rows by status; boxes by class, by share of the image and by COCO's sizes in pixels; how evenly
    the classes have boxes, and which have none; images without a box. What changed since the run
    before the last one is told by their manifests: the files, and the rows and boxes in them, as
    far as the earlier ones are kept. Reads a few columns. Exit code: 0 it is counted, 2 there is no
    such output.
    """
    console = Console(stderr=as_json)
    output = one_recipe(output, console)
    if to is not None:
        require_folder(to.parent)
    from cambox.review.stats.collect import statistics
    from cambox.review.stats.write import draw_statistics, lines

    with Steps(console) as steps:
        found = statistics(output, steps.step("files counted"))
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        say(console, *lines(found))
    if to is not None:
        (path,) = write_files(to.parent, {to.name: draw_statistics(found)})
        say(console, f"written: {path}")
