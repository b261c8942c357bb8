"""A thousand odd files: rows, colours and exports say of each what Pillow says."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from cambox.export import Format
from cambox.export.export import export
from cambox.export.request import ExportRequest
from cambox.run import run
from cambox.sources.decode import decode_image
from cambox.training.selection import Selection
from conftest import ConfigMaker
from makers import ORIENTATION, write_tar
from odd_pictures import OddPicture, odd_pictures

LIMIT = 100_000_000


def by_pillow(data: bytes) -> np.ndarray | None:
    """(H, W, 3) as Pillow has it, but of grey in 16 bits the upper eight (docs/pictures.md)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I"):
                return np.dstack([np.asarray(upright, np.uint16) // 256] * 3)
            return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, IndexError, TypeError):
        return None


def is_noted_turned(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(ORIENTATION, 1) != 1


@pytest.fixture(scope="module")
def corpus() -> list[OddPicture]:
    return odd_pictures()


@pytest.fixture(scope="module")
def opinions(corpus: Sequence[OddPicture]) -> list[np.ndarray | None]:
    return [by_pillow(file.data) for file in corpus]


def test_every_file_has_the_row_that_pillow_speaks_for(
    corpus: Sequence[OddPicture],
    opinions: Sequence[np.ndarray | None],
    make_config: ConfigMaker,
    tmp_path: Path,
) -> None:
    assert len(corpus) > 1000
    shard = write_tar(
        tmp_path / "odd.tar",
        [(f"{place:04d}.{file.suffix}", file.data) for place, file in enumerate(corpus)],
    )
    summary = run(
        make_config(
            *(f"input.shards={shard}", "engine.batch_size=64", "model.input_size=32"),
            *("cam.top_k=1", "boxes.max_boxes=1", "model.precision=float32"),
        ),
        Console(file=io.StringIO()),
    )
    table = pyarrow.dataset.dataset(summary.folder).to_table(
        columns=["key", "sample_index", "status", "error", "width", "height"]
    )
    rows = table.sort_by("sample_index").to_pylist()
    assert [row["key"] for row in rows] == [f"{place:04d}" for place in range(len(corpus))]
    for row, file, opinion in zip(rows, corpus, opinions, strict=True):
        expected = ("unreadable", None, None)
        if opinion is not None:
            expected = ("ok", opinion.shape[1], opinion.shape[0])
        assert (row["status"], row["width"], row["height"]) == expected, (file.what, row["error"])
    statuses = Counter(row["status"] for row in rows)
    assert statuses["ok"] > 800
    assert statuses["unreadable"] > 200

    to = tmp_path / "export"
    every = Selection(keep_empty=True)
    report = export(ExportRequest(summary.folder, Format.yolo, to, every, with_images=True))
    assert report.images == statuses["ok"]
    assert report.turned == sum(
        is_noted_turned(file.data)
        for file, opinion in zip(corpus, opinions, strict=True)
        if opinion is not None
    )


def test_colours_are_pillows(
    corpus: Sequence[OddPicture], opinions: Sequence[np.ndarray | None]
) -> None:
    for file, opinion in zip(corpus, opinions, strict=True):
        if opinion is not None:
            pixels = decode_image(file.data, LIMIT)
            difference = pixels.mean((0, 1)) - opinion.mean((0, 1))
            # CMYK to RGB is a matter of taste.
            most = 3 if "CMYK" in file.what else 1
            assert np.abs(difference).max() <= most, file.what
