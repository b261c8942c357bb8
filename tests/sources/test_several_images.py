"""Which files of a key are images, and that none of them is lost without a word."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambox.errors import ShardError
from cambox.sources.labels import read_labels
from cambox.sources.samples import (
    ANY_IMAGE,
    IMAGE_SUFFIXES,
    ImageRule,
    Sample,
    images_of,
    read_samples,
)
from cambox.sources.shards import find_shards
from cambox.training.shards import index_images
from makers import write_tar

FRAMES = {"22.00.png": b"0", "22.05.png": b"5", "22.05.cls": b"3", "22.cls": b"1", "9.png": b"9"}
DEPTH = {"s0.depth.png": b"d", "s0.rgb.png": b"c", "s0.rgb.cls": b"2", "s1.depth.png": b"e"}

suffixes = st.lists(
    st.tuples(
        st.sampled_from(["", "a.", "00.", "a.b."]),
        st.sampled_from(["png", "jpg", "cls", "json", "txt", "tiff"]),
    ).map("".join),
    min_size=1,
    max_size=6,
    unique=True,
)
rules = st.sampled_from([ANY_IMAGE, ImageRule(several="name"), ImageRule(several="refuse")])


def read(folder: Path, files: dict[str, bytes], rule: ImageRule = ANY_IMAGE) -> list[Sample]:
    (shard,) = find_shards([str(write_tar(folder / "a.tar", files))])
    return list(read_samples(shard, rule=rule))


def test_the_first_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    several, alone = read(tmp_path, FRAMES)
    assert (several.key, several.image, several.others) == ("22", "00.png", ("05.png",))
    assert several.remark is not None
    assert several.remark.startswith("several images under one key: 00.png is taken, 05.png left")
    assert (alone.key, alone.image, alone.remark) == ("9", "png", None)


def test_each_can_be_a_sample_named_as_its_file(tmp_path: Path) -> None:
    samples = read(tmp_path, FRAMES, ImageRule(several="name"))
    assert [(sample.key, sample.index, sample.image) for sample in samples] == [
        *(("22.00", 0, "00.png"), ("22.05", 1, "05.png"), ("9", 2, "png")),
    ]
    labels = [read_labels(sample.members, "cls", sample.image) for sample in samples]
    assert labels == [(1,), (3,), None], "its own label, or that of the key"
    both = read(tmp_path, {"a.jpg": b"1", "a.png": b"2", "a.cls": b"0"}, ImageRule(several="name"))
    assert [sample.key for sample in both] == ["a.jpg", "a.png"]


def test_they_can_be_refused(tmp_path: Path) -> None:
    refuse = ImageRule(several="refuse")
    with pytest.raises(ShardError, match=r"a\.tar: '22' has several images under one key: 00\.png"):
        read(tmp_path, FRAMES, refuse)
    assert len(read(tmp_path, {"1.jpg": b"", "1.cls": b"1", "2.a.jpg": b""}, refuse)) == 2


def test_the_member_can_be_chosen_and_its_label_follows(tmp_path: Path) -> None:
    first, second = read(tmp_path, DEPTH, ImageRule(image="rgb.png"))
    assert first.members[first.image or ""] == b"c"
    assert read_labels(first.members, "cls", first.image) == (2,)
    assert (first.remark, second.image) == (None, None)
    members = {"rgb.json": b'{"tag": 4}', "json": b'{"tag": 5}'}
    assert read_labels(members, "json:tag", "rgb.png") == (4,)
    assert read_labels(members, "json:tag", "depth.png") == (5,)
    assert read_labels(members, "json:tag", "png") == (5,)


@pytest.mark.parametrize(
    ("members", "image"),
    [
        (("json", "png", "jpg", "a.jpg"), "jpg"),
        (("left.png", "right.jpg", "left.jpg"), "left.jpg"),
        (("png", "left.jpg"), "png"),
        (("cls", "jpgx", "jpg.txt"), None),
        *(((suffix,), suffix) for suffix in IMAGE_SUFFIXES),
    ],
)
def test_which_is_the_first(members: tuple[str, ...], image: str | None) -> None:
    ((_, first, _),) = images_of("a", members, ANY_IMAGE)
    assert first == image


@given(suffixes, rules)
def test_every_image_has_a_row_or_is_named_in_one(files: list[str], rule: ImageRule) -> None:
    samples = images_of("a", files, rule)
    images = [name for name in files if name.rpartition(".")[2] in ("png", "jpg", "tiff")]
    mentioned = [name for _, image, others in samples for name in (image, *others) if name]
    assert sorted(mentioned) == sorted(images)
    keys = [key for key, _, _ in samples]
    assert len(set(keys)) == len(keys) >= 1


@pytest.mark.parametrize(
    "rule", [ANY_IMAGE, ImageRule(several="name"), ImageRule(image="depth.png")]
)
def test_reading_in_any_order_finds_the_same_images(tmp_path: Path, rule: ImageRule) -> None:
    samples = read(tmp_path, FRAMES | DEPTH, rule)
    path = tmp_path / "a.tar"
    stored = {
        sample.key: None if sample.image is None else sample.members[sample.image]
        for sample in samples
    }
    data = path.read_bytes()
    places = index_images(str(path), rule=rule)
    found = {
        key: None if extent is None else data[extent[0] : sum(extent)]
        for key, extent in places.items()
    }
    assert list(found.items()) == list(stored.items())


def test_a_name_that_is_taken_is_no_second_sample(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.png", "a.jpg", "a.png.png"):
            archive.addfile(tarfile.TarInfo(name))
    (tmp_path / "odd.tar").write_bytes(buffer.getvalue())
    (shard,) = find_shards([str(tmp_path / "odd.tar")])
    with pytest.raises(ShardError, match=r"the key 'a\.png' comes again"):
        list(read_samples(shard, rule=ImageRule(several="name")))
