"""A contact sheet of scenes: what was found beside what is there.

The photographs are other people's and not in the repository, so neither is their sheet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cambox.boxes import Boxes
from cambox.output.reading import open_recipe
from cambox.output.rows import boxes_from_arrow
from cambox.review.sheet import SheetTile, draw_sheet, png, shrunk
from research.photographs import Scenes, decoded

COLUMNS = ("key", "objects")
LEGEND = "left: the best box of each class, and others above the least score; right: true boxes"


def found_boxes(output: str, least: float) -> dict[str, Boxes]:
    """By the samples' keys, the first box of each class and others with a score of ``least``."""
    found: dict[str, Boxes] = {}
    for batch in open_recipe(output).batches(COLUMNS):
        boxes = boxes_from_arrow(batch["objects"])
        boxes = boxes[(boxes.component == 0) | (boxes.score >= least)]
        for place, key in enumerate(batch["key"].to_pylist()):
            found[key] = boxes[boxes.image == place]
    return found


def main(
    data: Annotated[Path, typer.Option(help="Folder of the scenes, see Scenes.read.")],
    output: Annotated[str, typer.Option(help="What cambox annotate made of them.")],
    to: Annotated[Path, typer.Option(help="The sheet to write.")] = Path("scenes.png"),
    count: Annotated[int, typer.Option(min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Which of them.")] = 3,
    least: Annotated[float, typer.Option(help="Score of a further box of a class.")] = 0.2,
) -> None:
    """Draw some scenes with their boxes and their true boxes."""
    scenes, found = Scenes.read(data), found_boxes(output, least)
    chosen = np.random.default_rng(seed).permutation(len(scenes.files))[:count].tolist()
    tiles = []
    for number in chosen:
        file = scenes.files[number]
        image, true = decoded(file), scenes.true[number]
        height, width, _ = image.shape
        # On the right the true ones, in place of a map.
        tile = SheetTile(image, file.stem, None, found[file.stem], after=true.scaled(width, height))
        tiles.append(shrunk(tile))
    to.write_bytes(png(draw_sheet(tiles, scenes.groups.names, columns=4, legend=LEGEND)))
    typer.echo(f"written: {to}")


if __name__ == "__main__":
    typer.run(main)
