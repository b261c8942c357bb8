"""The built-in pictures: what is the same, what is not, and what a run does about it."""

from __future__ import annotations

import gc
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from cambox.boxes import Boxes
from cambox.canary.rows import FILES, Canary, PictureRow
from cambox.canary.trial import pictures
from cambox.canary.workers import Alike, Made
from cambox.config import Config
from cambox.engines.actor import Worker
from cambox.errors import RequestError
from cambox.output.rows import ClassScore
from cambox.run import prepare, run
from cambox.sources import load
from cambox.sources.decode import decode_image
from conftest import ConfigMaker

QUIET = Console(file=io.StringIO())
PIXELS = bytes(range(12))


def row(probability: float = 0.7, right: float = 60.0, pixels: bytes = PIXELS) -> PictureRow:
    classes = [ClassScore(3, 1, probability), ClassScore(1, 2, 0.2)]
    boxes = Boxes.of([[10, 10, right, 50], [70, 70, 80, 80]], class_id=3, component=[0, 1])
    return PictureRow.of(pixels, classes, boxes)


def canary(second: PictureRow, precision: str = "float32", device: str = "cpu") -> Canary:
    return Canary(device=device, precision=precision, rows=(row(), second))


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (row(), None),
        (row(probability=0.7004, right=60.6), None),
        (row(pixels=PIXELS[::-1]), "see_through.png is decoded to other pixels"),
        (row(probability=0.69), "class 3 with a probability of 0.69 in place of 0.7"),
        # 50 x 40 pixels before, 40 x 40 now.
        (row(right=50.0), "a box of class 3 that meets the one before with an IoU of 0.80"),
        (PictureRow.of(PIXELS, [ClassScore(3, 1, 0.7)], Boxes.of(())), "no boxes in place of 1"),
        (PictureRow.of(PIXELS, [ClassScore(5, 1, 0.7)], Boxes.of(())), "has other classes"),
    ],
)
def test_only_what_rounding_does_not_explain_is_a_difference(
    now: PictureRow, found: str | None
) -> None:
    difference = canary(row()).difference(canary(now))
    assert (difference is None) if found is None else (difference or "").endswith(found)


def test_half_precision_may_differ_by_more() -> None:
    before, now = (canary(row(probability=p), precision="bfloat16") for p in (0.7, 0.73))
    assert before.difference(now) is None
    assert before.difference(canary(row(probability=0.8), precision="bfloat16")) is not None


def test_of_a_cpu_and_a_gpu_only_the_pixels_are_compared() -> None:
    on_gpu = canary(row(probability=0.5), device="cuda")
    assert canary(row()).difference(on_gpu) is None
    assert on_gpu.difference(canary(row(pixels=PIXELS[::-1]))) is not None


def test_pixels_that_a_gpu_decoded_are_not_compared() -> None:
    unknown = row().model_copy(update={"pixels": None})
    assert canary(unknown).difference(canary(row(pixels=b""))) is None


def test_a_footer_of_another_cambox_is_not_compared() -> None:
    assert Canary.read(canary(row()).model_dump_json()) == canary(row())
    assert Canary.read('{"rows": [], "precision": "float32"}') is None
    assert Canary.read('{"pictures": 3}') is None
    assert Canary.read("not JSON") is None


def test_the_pictures_ask_the_decoder_for_more_than_pixels() -> None:
    turned, see_through = (Image.open(io.BytesIO(data)) for data in pictures().values())
    assert (turned.getexif()[0x0112], see_through.mode) == (6, "RGBA")
    upright = ImageOps.exif_transpose(turned).convert("RGB")
    decoded = decode_image(pictures()[FILES[0]], 10**6)
    assert decoded.shape == (upright.height, upright.width, 3)
    assert np.abs(decoded.astype(int) - np.asarray(upright)).max() <= 1


@pytest.fixture
def resized_otherwise(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on images are resized as another library might do it."""

    def nearest(image: np.ndarray, height: int, width: int) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST))

    return lambda: monkeypatch.setattr(load, "squash", nearest)


@pytest.fixture
def begun(make_config: ConfigMaker, tmp_path: Path, shards: Path) -> Config:
    """A run over two of three shards, and the configuration over all of them."""
    folder = tmp_path / "input"
    folder.mkdir()
    paths = sorted(shards.glob("*.tar"))
    config = make_config(f"input.shards={folder}/*.tar")
    for path in paths[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    assert run(config, QUIET).complete
    (folder / paths[2].name).write_bytes(paths[2].read_bytes())
    return config


def what_differs(config: Config, what_to_do: str) -> Config:
    engine = config.engine.model_copy(update={"if_rows_differ": what_to_do})
    return config.model_copy(update={"engine": engine})


def canaries(config: Config) -> list[bytes]:
    files = sorted(Path(config.output.uri).glob("*/*.parquet"))
    return [pq.read_metadata(path).metadata[b"cambox.canary"] for path in files]


def test_every_file_says_what_its_worker_made_of_the_pictures(begun: Config) -> None:
    assert run(begun, QUIET).complete
    made = canaries(begun)
    assert len(made) == 3
    assert len(set(made)) == 1
    read = Canary.read(made[0].decode())
    assert read is not None
    assert [len(one.boxes) > 0 for one in read.rows] == [True, True]


def test_a_damaged_entry_makes_its_file_changed_and_stops_no_run(begun: Config) -> None:
    path = sorted(Path(begun.output.uri).glob("*/*.parquet"))[0]
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"cambox.canary": b"\xff"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert len(run(begun, QUIET).plan.changed) == 1


def test_a_run_that_would_mix_rows_ends_before_it_begins(
    begun: Config, resized_otherwise: Callable[[], None]
) -> None:
    resized_otherwise()
    with pytest.raises(RequestError) as refused:
        run(begun, QUIET)
    words = str(refused.value)
    assert "2 published files of recipe" in words
    assert "the built-in picture turned.jpg has" in words
    assert "engine.if_rows_differ" in words
    assert len(canaries(begun)) == 2


def test_a_run_with_nothing_to_add_mixes_nothing(
    begun: Config, resized_otherwise: Callable[[], None]
) -> None:
    assert run(begun, QUIET).complete
    resized_otherwise()
    assert run(begun, QUIET).reports == ()


def test_rows_that_would_differ_are_made_anew_where_that_is_asked_for(
    begun: Config, resized_otherwise: Callable[[], None]
) -> None:
    resized_otherwise()
    config = what_differs(begun, "redo")
    summary = run(config, QUIET)
    assert (len(summary.plan.outdated), len(summary.reports)) == (2, 3)
    assert len(set(canaries(begun))) == 1
    # The recipe is the same, so the folder is, and all of it is done now.
    assert prepare(begun, QUIET)[1].to_do == ()


def test_rows_are_mixed_where_that_is_asked_for_and_said(
    begun: Config, resized_otherwise: Callable[[], None]
) -> None:
    resized_otherwise()
    said = io.StringIO()
    assert len(run(what_differs(begun, "mix"), Console(file=said, width=400)).reports) == 1
    assert "warning: 2 published files" in said.getvalue()
    assert len(set(canaries(begun))) == 2


def test_a_worker_that_makes_other_rows_than_the_driver_is_told_from_it(
    begun: Config, resized_otherwise: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker keeps what is logged in its process.
    monkeypatch.setattr(logging.getLogger("cambox"), "handlers", [])
    engine, _ = prepare(begun, QUIET)
    alike = Alike(Made("the driver's machine", "driver", engine.canary, {"torch": "1"}))
    head = engine.model.classifier.head.kind

    def loaded() -> Made:
        worker = Worker(begun, engine.recipe.digest, head, 1)
        try:
            return worker.load()
        finally:
            gc.unfreeze()
            worker.prefetch.close()

    assert alike.difference(loaded()) is None
    resized_otherwise()
    found = alike.difference(loaded())
    assert found is not None
    assert "makes other rows than the driver's machine: the built-in picture turned.jpg" in found
    assert "torch 1 there and " in found


def test_workers_of_one_kind_of_gpu_are_compared_with_the_first_of_them() -> None:
    driver = Made("the driver's machine", "driver", canary(row()), {})
    alike = Alike(driver)

    def on_gpu(probability: float, kind: str, pixels: bytes = PIXELS) -> str | None:
        made = canary(row(probability=probability, pixels=pixels), device="cuda")
        return alike.difference(Made("here", kind, made, {}))

    # Neither of the driver's rows nor of those of another kind is anything known.
    assert on_gpu(0.2, "H100") is None
    assert on_gpu(0.9, "H200") is None
    assert on_gpu(0.2005, "H100") is None
    assert "with a probability of 0.9 in place of 0.2" in str(on_gpu(0.9, "H100"))
    assert "so it is the machine" in str(on_gpu(0.2, "H200"))
    assert "than the driver's machine" in str(on_gpu(0.2, "H100", pixels=PIXELS[::-1]))
    # One that had no memory for the pictures is no measure for others.
    assert Alike(driver).difference(Made("here", "cpu", None, {})) is None
