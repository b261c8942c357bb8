"""How a GPU's batch size is found and remembered; the GPU is played."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cambox.engines.worker import LARGEST, SMALLEST, fastest_batch_size, remembered


def test_the_largest_batch_that_still_gains_is_taken() -> None:
    # 10 ms for a start and 0.1 ms an image up to 128 at once, from where on nothing is gained.
    tried: list[int] = []

    def seconds(size: int) -> float:
        tried.append(size)
        return 0.010 + 0.0001 * size if size <= 128 else 0.0228 * size / 128

    assert fastest_batch_size(seconds) == 128
    assert tried == [16, 32, 64, 128, 256]


def test_it_stops_at_the_largest_and_at_the_smallest() -> None:
    assert fastest_batch_size(lambda size: 1.0) == LARGEST
    assert fastest_batch_size(lambda size: float(size)) == SMALLEST


@pytest.mark.parametrize(("fits", "expected"), [(100, 64), (16, 16), (3, SMALLEST)])
def test_a_batch_that_does_not_fit_is_not_taken(fits: int, expected: int) -> None:
    def seconds(size: int) -> float:
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    assert fastest_batch_size(seconds) == expected


def test_it_is_found_once_for_each_model_and_gpu(tmp_path: Path) -> None:
    answers = iter([64, 128, 256])
    assert remembered("a on one GPU", lambda: next(answers), tmp_path / "cache") == 64
    assert remembered("b on one GPU", lambda: next(answers), tmp_path / "cache") == 128
    assert remembered("a on one GPU", lambda: next(answers), tmp_path / "cache") == 64
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"batch_size": "many"}', b"\xff"])
def test_a_damaged_memory_is_found_anew(tmp_path: Path, damage: bytes) -> None:
    assert remembered("a", lambda: 64, tmp_path) == 64
    (kept,) = tmp_path.glob("*.json")
    kept.write_bytes(damage)
    assert remembered("a", lambda: 32, tmp_path) == 32
    assert remembered("a", lambda: 16, tmp_path) == 32


def test_without_a_place_to_remember_it_is_found_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    answers = iter([64, 32])
    assert remembered("a", lambda: next(answers), tmp_path / "file" / "cache") == 64
    assert remembered("a", lambda: next(answers), tmp_path / "file" / "cache") == 32
