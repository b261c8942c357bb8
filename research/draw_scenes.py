"""A contact sheet of scenes: what was found beside what is there.

Of photographs with true boxes, or of pictures that are painted as the demo's are.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console

from cambox.boxes import Boxes
from cambox.config import Config
from cambox.config_file import load_config
from cambox.demo import FIRST_SEED, write_config
from cambox.demo.scenes import make_scene, write_scenes
from cambox.output.reading import open_recipe
from cambox.output.rows import boxes_from_arrow
from cambox.review.sheet import SheetTile, draw_sheet, shrunk
from cambox.run import run
from cambox.sources.pack import pack
from research.photographs import Scenes, decoded

COLUMNS = ("key", "objects")
LEGEND = "left: the best box of each class, and others above the least score; right: true boxes"
TILE_WIDTH, JPEG_QUALITY = 400, 75
PAINTED_SIDES = "[128, 192, 256]"
"""Longer sides for pictures of 192 to 288 pixels and a network of 128."""
ALIKE = 0.3
"""The share of painted pictures with two objects of one class, which chance makes of 3 %."""


def found_boxes(output: str, least: float) -> dict[str, Boxes]:
    """By the samples' keys, the first box of each class and others with a score of ``least``."""
    found: dict[str, Boxes] = {}
    for batch in open_recipe(output).batches(COLUMNS):
        boxes = boxes_from_arrow(batch["objects"])
        boxes = boxes[(boxes.component == 0) | (boxes.score >= least)]
        for place, key in enumerate(batch["key"].to_pylist()):
            found[key] = boxes[boxes.image == place]
    return found


def photographs(data: Path, count: int, seed: int) -> Scenes:
    """Some of a folder, see ``Scenes.read``, by chance."""
    scenes = Scenes.read(data)
    chosen = np.random.default_rng(seed).permutation(len(scenes.files))[:count].tolist()
    return Scenes(
        scenes.groups,
        [scenes.files[number] for number in chosen],
        [scenes.true[number] for number in chosen],
    )


def painted(folder: Path, count: int) -> tuple[Scenes, str]:
    """The demo's first pictures with several objects, and the folder of what scenes finds there."""
    write_scenes(folder, _seeds_of_several(count))
    names = (folder / "class_names.txt").read_text().splitlines()
    groups = "".join(f"{name}: [{index}]\n" for index, name in enumerate(names))
    (folder / "class_groups.yaml").write_text(groups)
    pack(folder / "images", folder / "shards", folder / "labels.csv")
    return Scenes.read(folder), run(_recipe(folder), Console()).folder


def _seeds_of_several(count: int) -> list[int]:
    """Of the first pictures with several objects, ``ALIKE`` of them with two of one class."""
    alike: list[int] = []
    others: list[int] = []
    most = round(ALIKE * count)
    for seed in itertools.count(FIRST_SEED):
        classes = make_scene(seed)[1].class_id
        if len(classes) > 1:
            (others if len(set(classes)) == len(classes) else alike).append(seed)
        if len(alike) >= most and len(others) >= count - most:
            break
    return sorted(alike[:most] + others[: count - most])


def _recipe(folder: Path) -> Config:
    demo = write_config(folder)
    model = demo.model.model_dump(mode="json", exclude_defaults=True, exclude={"input_size"})
    return load_config(
        "scenes",
        [
            f"input.shards={json.dumps(demo.input.shards)}",
            *(f"model.{key}={json.dumps(value)}" for key, value in model.items()),
            "model.pretrained=false",
            "cam.classes=label",
            f"cam.zoom={{sides: {PAINTED_SIDES}, mirrored: [128]}}",
            f"output.uri={folder / 'scenes'}",
        ],
    )


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of scenes, see Scenes.read.")] = None,
    output: Annotated[str | None, typer.Option(help="What cambox annotate made of them.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Painted pictures instead.")] = False,
    to: Annotated[Path, typer.Option(help="The sheet to write, PNG or JPEG.")] = Path("scenes.png"),
    count: Annotated[int, typer.Option(min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Which of the photographs.")] = 3,
    least: Annotated[float, typer.Option(help="Score of a further box of a class.")] = 0.2,
) -> None:
    """Draw some scenes with their boxes and their true boxes."""
    with tempfile.TemporaryDirectory() as folder:
        if demo:
            scenes, output = painted(Path(folder), count)
        elif data is not None and output is not None:
            scenes = photographs(data, count, seed)
        else:
            raise typer.BadParameter("give --data and --output, or --demo")
        found = found_boxes(output, least)
        tiles = []
        for file, true in zip(scenes.files, scenes.true, strict=True):
            image = decoded(file)
            height, width, _ = image.shape
            # On the right the true ones, in place of a map; they have no score.
            after = true.scaled(width, height).with_columns(score=np.full(len(true), np.nan))
            tiles.append(shrunk(SheetTile(image, file.stem, None, found[file.stem], after=after)))
    sheet = draw_sheet(tiles, scenes.groups.names, columns=4, tile_width=TILE_WIDTH, legend=LEGEND)
    Image.fromarray(sheet).save(to, quality=JPEG_QUALITY, optimize=True)
    typer.echo(f"written: {to}")


if __name__ == "__main__":
    typer.run(main)
