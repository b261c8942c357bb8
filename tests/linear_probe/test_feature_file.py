"""Features on the disk: every row comes back in its place, and no file stays."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.errors import RequestError
from cambox.linear_probe.feature_file import ROWS_AT_ONCE, FeatureFile


def rows_of(file: FeatureFile) -> np.ndarray:
    rows = np.full(file.shape, np.nan, np.float16)
    for place, block in file.blocks():
        rows[place] = block
    return rows


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6).map(lambda some: [*some, 1]), st.integers(1, 5))
def test_rows_come_back_however_they_were_written(counts: list[int], width: int) -> None:
    generator = np.random.default_rng(0)
    pieces = [generator.normal(size=(count, width)).astype(np.float16) for count in counts]
    file = FeatureFile()
    for piece in pieces:
        file.append(piece)
    expected = np.concatenate(pieces)
    assert np.array_equal(rows_of(file), expected)
    assert all(len(block) <= ROWS_AT_ONCE for _, block in file.blocks())
    used = generator.random(len(expected)) < 0.5
    assert np.array_equal(rows_of(file.some(used)), expected[used])
    both = file.and_after(file.some(used))
    assert np.array_equal(rows_of(both), np.concatenate([expected, expected[used]]))


def test_it_has_no_name_that_could_stay(tmp_path: Path) -> None:
    file = FeatureFile.of(np.ones((3, 2)), tmp_path)
    assert file.shape == (3, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RequestError, match=r"of 1000 pictures .* take 2000 bytes"):
            file.append(np.ones((1000, 1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
