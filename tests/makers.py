"""What tests of several wings make: tars, pictures, and a small output whose rows are known."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageOps

from cambox.boxes import Boxes
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.output.footer import Recipe
from cambox.output.publish import publish
from cambox.output.rows import ClassScore, Row, table
from cambox.sources.shards import find_shards

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CLASS_NAMES = ("striped", "crane", "dotted", "crane", "plain <&>")
ORIENTATION = 0x0112
TURN_BY_90 = 6

# Key, suffix, width and height as stored, EXIF orientation, status. "dog/1" and "Dog_1" would be
# one file to some file systems, and "images" is the word by which YOLO's readers find labels.
SHARDS = (
    (
        ("dog/1", "jpg", 61, 40, 1, "ok"),
        ("turned", "jpg", 64, 32, TURN_BY_90, "ok"),
        ("images/labels/x", "png", 33, 50, 1, "ok"),
        ('nul "<a> b"', "jpg", 48, 48, 1, "ok"),
        ("nothing", "jpg", 48, 40, 1, "ok"),
    ),
    (
        ("Dog_1", "jpg", 40, 61, 1, "ok"),
        ("torn", "jpg", 0, 0, 1, "unreadable"),
        ("dog/1", "jpg", 30, 31, 1, "ok"),
        ("unlabelled", "jpg", 37, 35, 1, "no_label"),
        ("ключ", "webp", 55, 44, 1, "ok"),
    ),
    (("last", "jpg", 57, 43, 1, "ok"), ("con", "jpg", 32, 32, 1, "ok")),
)


def write_tar(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """A tar of files, in their order, as ``tarfile`` writes it."""
    files = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


class KnownBox(NamedTuple):
    """A box as the tests know it, apart from the arrays that are tested."""

    class_id: int
    rank: int
    component: int
    box_score: float
    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def class_name(self) -> str:
        return CLASS_NAMES[self.class_id]


@dataclass(frozen=True)
class KnownRow(Row):
    """A row with its boxes."""

    objects: tuple[KnownBox, ...] = ()


@dataclass(frozen=True)
class Published:
    """An output, with the rows that are in it, in the order of its files."""

    output: Path
    folder: Path
    shards: tuple[Path, ...]
    rows: tuple[KnownRow, ...]
    recipe: Recipe

    @property
    def with_boxes(self) -> list[KnownRow]:
        return [row for row in self.rows if row.status == "ok" and row.objects]


def publish_rows(folder: Path) -> Published:
    """Write three shards and an output of one recipe."""
    sections = {name: {} for name in ("model", "cam", "boxes", "output")}
    settings = json.dumps(sections | {"input": {"labels": "cls", "max_pixels": 10_000}})
    digest = hashlib.sha256(b"hand-made").hexdigest()
    recipe = Recipe(settings, CLASS_NAMES, digest)
    output = OutputSettings(uri=str(folder / "out"))
    generator = np.random.default_rng(3)
    (folder / "shards").mkdir()
    paths, rows = [], []
    for number, samples in enumerate(SHARDS):
        path = folder / "shards" / f"shard-{number}.tar"
        with tarfile.open(path, "w") as archive:
            for key, suffix, width, height, orientation, status in samples:
                data = (
                    b"torn"
                    if status == "unreadable"
                    else picture(generator, suffix, width, height, orientation)
                )
                add(archive, f"{key}.cls", b"1")
                add(archive, f"{key}.{suffix}", data)
        (shard,) = find_shards([str(path)])
        own = []
        for index, (key, _, width, height, orientation, status) in enumerate(samples):
            size = (height, width) if orientation == TURN_BY_90 else (width, height)
            known = status != "unreadable"
            has_boxes = status == "ok" and key != "nothing"
            own.append(
                KnownRow(
                    key=key,
                    shard=shard.uri,
                    sample_index=index,
                    status=status,
                    error=None if status == "ok" else "because",
                    width=size[0] if known else None,
                    height=size[1] if known else None,
                    labels=(1,),
                    classes=tuple(
                        ClassScore(int(class_id), rank, 0.5 / rank)
                        for rank, class_id in enumerate(generator.permutation(5)[:2], 1)
                    )
                    if known
                    else (),
                    objects=tuple(objects(generator, *size)) if has_boxes else (),
                )
            )
        publish(table(own, boxes_of(own), CLASS_NAMES, with_maps=False), shard, recipe, output)
        paths.append(path)
        rows += own
    return Published(
        folder / "out", folder / "out" / recipe.folder, tuple(paths), tuple(rows), recipe
    )


def picture(
    generator: np.random.Generator, suffix: str, width: int, height: int, orientation: int
) -> bytes:
    """An encoded picture of smooth noise; an orientation is only noted, as cameras do."""
    grain = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix]
    image.save(buffer, kind, quality=95, exif=exif if orientation != 1 else b"")
    return buffer.getvalue()


def objects(generator: np.random.Generator, width: int, height: int) -> Iterator[KnownBox]:
    """Boxes of two components for a label and two predicted classes; the first fills the image."""
    for rank, class_id in enumerate(generator.permutation(len(CLASS_NAMES))[:3].tolist()):
        for component in range(2):
            sides = np.sort(generator.uniform(0, 1, (2, 2)), axis=0) * (width, height)
            if rank == component == 0:
                sides = np.array([[0, 0], [width, height]], np.float64)
            box_score = float(np.float32(generator.uniform(0, 1)))
            corners = sides.astype(np.float32).ravel().tolist()
            yield KnownBox(class_id, rank, component, box_score, *corners)


def boxes_of(rows: Sequence[KnownRow]) -> Boxes:
    """The boxes of some rows, as they are published."""
    return Boxes.of(
        [item[-4:] for row in rows for item in row.objects],
        image=[place for place, row in enumerate(rows) for _ in row.objects],
        class_id=[item.class_id for row in rows for item in row.objects],
        rank=[item.rank for row in rows for item in row.objects],
        component=[item.component for row in rows for item in row.objects],
        score=[item.box_score for row in rows for item in row.objects],
        class_score=0.5,
    )


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """One member."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


def corners_of(row: KnownRow) -> np.ndarray:
    """(n, 4) the boxes of a row."""
    return np.array([item[-4:] for item in row.objects], np.float32).reshape(-1, 4)


def stored_picture(row: KnownRow) -> Image.Image:
    """The picture of a row, upright, by Pillow."""
    with tarfile.open(row.shard) as archive:
        members = [name for name in archive.getnames() if name.startswith(f"{row.key}.")]
        (name,) = [name for name in members if not name.endswith(".cls")]
        file = archive.extractfile(name)
        assert file is not None
        return ImageOps.exif_transpose(Image.open(io.BytesIO(file.read()))).convert("RGB")


def exit_code_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Of a ``cambox`` in this process, which has imported everything."""
    monkeypatch.setattr(sys, "argv", ["cambox", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code
