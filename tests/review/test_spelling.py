"""One image under two spellings of its name: ./a and a, and é as one or two characters."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cambox.output.reading import open_recipe
from cambox.output.rows import spelled
from cambox.review.evaluate.evaluate import evaluate
from cambox.review.rows_with_truth import read_rows
from cambox.review.truth import read_truth
from cambox.run import run
from cambox.sources.keys import one_spelling
from conftest import ConfigMaker
from makers import write_tar

COMPOSED, TWO_CHARACTERS = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@given(st.text(st.characters(codec="utf-8", max_codepoint=0x3000)), st.integers(0, 3))
def test_rows_and_names_are_spelled_alike(name: str, dots: int) -> None:
    written = "./" * dots + name
    assert spelled(pa.array([written])).to_pylist() == [one_spelling(written)]
    decomposed = unicodedata.normalize("NFD", written)
    assert one_spelling(decomposed) == one_spelling(written)


@pytest.mark.parametrize(
    ("member", "image"),
    [
        ("./a.jpg", "a.jpg"),
        ("a.jpg", "./a.jpg"),
        (f"./x/{COMPOSED}.jpg", f"x/{TWO_CHARACTERS}.jpg"),
        (f"{TWO_CHARACTERS}.jpg", COMPOSED),
    ],
)
def test_the_truth_finds_its_row(
    make_config: ConfigMaker, pictures: Path, tmp_path: Path, member: str, image: str
) -> None:
    picture = (pictures / "picture-00.jpg").read_bytes()
    shard = write_tar(tmp_path / "a.tar", {member: picture, "other.jpg": picture})
    summary = run(
        make_config(f"input.shards={shard}", "output.store_maps=true"),
        Console(file=io.StringIO()),
    )
    csv = tmp_path / "truth.csv"
    csv.write_text(f"image,x_min,y_min,x_max,y_max,class_index\n{image},0,0,20,20,1\n")
    truth = read_truth(str(csv), [str(number) for number in range(10)])
    found = read_rows(open_recipe(summary.folder), truth)
    assert [row.key for row in found.rows] == [member.removesuffix(".jpg")]
    assert found.without_row == ()
    remarks = evaluate(summary.folder, str(csv), resamples=10).remarks
    assert any(image in remark and "Unicode" in remark for remark in remarks) != image.isascii()
