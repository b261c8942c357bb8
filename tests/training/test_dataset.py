"""Training data from an output: the dataset in any order, the stream, and what both leave out."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms import v2

from cambox.config import OutputSettings
from cambox.errors import RequestError, ShardError
from cambox.output import footer
from cambox.output.publish import publish
from cambox.output.rows import StoredMap, table
from cambox.sources.samples import ANY_IMAGE, Sample, most_in_a_sample, read_samples
from cambox.sources.shards import find_shards
from cambox.sources.storage import locate
from cambox.training import shards
from cambox.training.dataset import BoxDataset
from cambox.training.sample import DetectionSample, collate, of_each_box
from cambox.training.selection import Selection
from cambox.training.shards import index_images
from cambox.training.stream import BoxStream
from makers import (
    CLASS_NAMES,
    KnownBox,
    KnownRow,
    Published,
    add,
    boxes_of,
    corners_of,
    publish_rows,
    stored_picture,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_rows(tmp_path_factory.mktemp("published"))


@pytest.fixture
def own(tmp_path: Path) -> Published:
    """One that a test may damage."""
    return publish_rows(tmp_path)


def test_a_sample_is_the_picture_with_its_own_boxes(published: Published) -> None:
    dataset = BoxDataset(str(published.output))
    assert len(dataset) == len(published.with_boxes)
    for (image, target), row in zip(
        map(dataset.__getitem__, range(len(dataset))), published.with_boxes, strict=True
    ):
        assert isinstance(image, tv_tensors.Image)
        assert (image.dtype, image.shape) == (torch.uint8, (3, row.height, row.width))
        expected = np.asarray(stored_picture(row), np.int16).transpose(2, 0, 1)
        # Two decoders of one JPEG may differ by a step or two of rounding.
        assert np.abs(image.numpy().astype(np.int16) - expected).max() <= 4
        boxes = target["boxes"]
        assert isinstance(boxes, tv_tensors.BoundingBoxes)
        assert boxes.format == tv_tensors.BoundingBoxFormat.XYXY
        assert boxes.canvas_size == (row.height, row.width)
        assert np.array_equal(boxes.numpy(), corners_of(row))
        assert target["labels"].dtype == torch.int64
        assert target["labels"].tolist() == [item.class_id + 1 for item in row.objects]
        scores = np.array([item.box_score for item in row.objects], np.float32)
        assert np.array_equal(target["scores"].numpy(), scores)
        assert (target["key"], published.rows[target["image_id"]]) == (row.key, row)
    assert dataset.left_out == {"no box": 1, "unreadable": 1, "no_label": 1}
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert dataset[-1][1]["key"] == dataset[len(dataset) - 1][1]["key"]


def kept(row: KnownRow, selection: Selection) -> list[KnownBox]:
    """The rule of a selection, written out."""
    boxes = [item for item in row.objects if item.box_score >= np.float32(selection.min_score)]
    if selection.max_rank is not None:
        boxes = [item for item in boxes if item.rank <= selection.max_rank]
    if selection.only_labels:
        boxes = [item for item in boxes if item.rank == 0]
    if selection.classes is not None:
        boxes = [item for item in boxes if item.class_id in selection.classes]
    if selection.max_component is not None:
        boxes = [item for item in boxes if item.component <= selection.max_component]
    return boxes


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        Selection,
        min_score=st.floats(0, 1),
        max_rank=st.none() | st.integers(0, 3),
        only_labels=st.booleans(),
        classes=st.none() | st.lists(st.integers(0, 4), min_size=1, unique=True).map(tuple),
        max_component=st.none() | st.integers(0, 2),
        keep_empty=st.booleans(),
        statuses=st.sampled_from([("ok",), ("ok", "no_label"), ("no_label", "unreadable")]),
    )
)
def test_a_selection_keeps_what_its_rule_says(published: Published, selection: Selection) -> None:
    dataset = BoxDataset(str(published.output), selection)
    expected = [
        (number, kept(row, selection))
        for number, row in enumerate(published.rows)
        if row.status in selection.statuses and row.width is not None
    ]
    expected = [(number, boxes) for number, boxes in expected if boxes or selection.keep_empty]
    assert len(dataset) == len(expected)
    numbers = list(selection.classes or range(len(CLASS_NAMES)))
    for index, (number, boxes) in enumerate(expected):
        image = dataset.labelled(index)
        assert image.image_id == number
        assert image.boxes.class_id.tolist() == [numbers.index(item.class_id) for item in boxes]
        assert image.boxes.score.tolist() == [item.box_score for item in boxes]
        assert image.boxes.corners.tolist() == [list(item[-4:]) for item in boxes]
    assert sum(dataset.left_out.values()) == len(published.rows) - len(expected)


def test_classes_of_one_name_are_told_apart(published: Published) -> None:
    names = ("striped", "crane (1)", "dotted", "crane (3)", "plain <&>")
    assert BoxDataset(str(published.output)).classes.names == names
    chosen = BoxDataset(str(published.output), Selection(classes=(3, 0))).classes
    assert (chosen.ids, chosen.names) == ((3, 0), ("crane (3)", "striped"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_score": 1.5}, "min_score"),
        ({"max_rank": -1}, "max_rank"),
        ({"max_component": -1}, "max_component"),
        ({"classes": (1, 1)}, "twice"),
        ({"classes": (5,)}, "classes: 5"),
        ({"statuses": ("fine",)}, "statuses"),
    ],
)
def test_a_wrong_selection_is_named(published: Published, wrong: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        BoxDataset(str(published.output), Selection(**wrong))


def test_transforms_move_boxes_with_their_picture(published: Published) -> None:
    plain = BoxDataset(str(published.output))
    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(p=1),
            v2.Resize((80, 120)),
            # A box that fills its image may end a rounding error outside of the resized one,
            # and would be dropped.
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=12, labels_getter=of_each_box),
        ]
    )
    changed = BoxDataset(str(published.output), transforms=change)
    dropped = 0
    for index in range(len(plain)):
        (image, before), (moved, after) = plain[index], changed[index]
        height, width = image.shape[1:]
        assert moved.shape == (3, 80, 120)
        x_min, y_min, x_max, y_max = before["boxes"].as_subclass(torch.Tensor).unbind(1)
        flipped = torch.stack([width - x_max, y_min, width - x_min, y_max], dim=1)
        expected = flipped * torch.tensor([120 / width, 80 / height] * 2)
        large = ((expected[:, 2:] - expected[:, :2]) >= 12).all(dim=1)
        dropped += int((~large).sum())
        assert torch.allclose(after["boxes"].as_subclass(torch.Tensor), expected[large], atol=1e-3)
        assert torch.equal(after["labels"], before["labels"][large])
        assert torch.equal(after["scores"], before["scores"][large])
    assert dropped > 3


def as_text(sample: DetectionSample) -> tuple[str, str]:
    image, target = sample
    return f"{target['image_id']} {image.sum()}", f"{target['boxes'].tolist()} {target['labels']}"


def test_workers_see_the_same_samples(published: Published) -> None:
    dataset = BoxDataset(str(published.output))
    expected = [as_text(dataset[index]) for index in range(len(dataset))]
    for copy in (dataset, pickle.loads(pickle.dumps(dataset))):
        loader = DataLoader(copy, batch_size=2, num_workers=2, collate_fn=collate)
        found = [
            as_text(sample)
            for images, targets in loader
            for sample in zip(images, targets, strict=True)
        ]
        assert found == expected


def test_a_torchvision_detector_takes_the_batches(published: Published) -> None:
    change = v2.ToDtype(torch.float32, scale=True)
    dataset = BoxDataset(str(published.output), transforms=change)
    images, targets = collate([dataset[0], dataset[1]])
    detector = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(CLASS_NAMES) + 1
    )
    losses = detector.train()(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())


def through_stream(stream: BoxStream) -> list[tuple[str, str]]:
    return [as_text(sample) for sample in stream]


@pytest.mark.parametrize("shuffle", [0, 1, 3, 1000])
def test_the_stream_gives_each_sample_once(published: Published, shuffle: int) -> None:
    dataset = BoxDataset(str(published.output))
    expected = [as_text(dataset[index]) for index in range(len(dataset))]
    found = through_stream(BoxStream(str(published.output), shuffle=shuffle))
    assert found == expected if shuffle == 0 else sorted(found) == sorted(expected)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (3, 2), (2, 2)])
def test_ranks_and_workers_share_the_shards(published: Published, ranks: int, workers: int) -> None:
    found = []
    for rank in range(ranks):
        stream = BoxStream(str(published.output), rank=rank, world_size=ranks)
        loader = DataLoader(stream, batch_size=None, num_workers=workers)
        of_rank = [target["image_id"] for _, target in loader]
        assert of_rank
        found += of_rank
    numbers = [number for number, row in enumerate(published.rows) if row in published.with_boxes]
    assert sorted(found) == numbers


def test_the_order_is_that_of_seed_and_epoch(published: Published) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stream = BoxStream(str(published.output), seed=seed)
        stream.set_epoch(epoch)
        return [target["image_id"] for _, target in stream]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) > 4


def test_living_workers_hear_of_the_epoch(published: Published) -> None:
    stream = BoxStream(str(published.output))
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append([target["image_id"] for _, target in loader])
    assert orders[0] == orders[2] != orders[1]


def test_too_many_ranks_are_refused(published: Published) -> None:
    with pytest.raises(RequestError, match="4 ranks cannot share 3 shards"):
        BoxStream(str(published.output), rank=0, world_size=4)


@pytest.fixture(params=[BoxDataset, BoxStream])
def kind(request: pytest.FixtureRequest) -> Iterator[type]:
    return request.param


def test_a_changed_shard_is_refused(own: Published, kind: type) -> None:
    os.utime(own.shards[1], ns=(1, 1))
    with pytest.raises(RequestError, match=r"shard-1\.tar is not the file that was annotated"):
        kind(str(own.output))
    own.shards[1].unlink()
    with pytest.raises(RequestError, match=r"shard-1\.tar is not there"):
        kind(str(own.output))


def test_copied_shards_are_found_by_their_names(own: Published, kind: type, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "shards", tmp_path / "copy")
    shutil.rmtree(tmp_path / "shards")
    for shard in (tmp_path / "copy").iterdir():
        os.utime(shard, ns=(1, 1))
    moved = kind(str(own.output), shards_at=str(tmp_path / "copy"))
    samples = moved if kind is BoxStream else map(moved.__getitem__, range(len(moved)))
    assert len(list(samples)) == len(own.with_boxes)
    with (tmp_path / "copy" / "shard-1.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(RequestError, match=r"shard-1\.tar is not the file"):
        kind(str(own.output), shards_at=str(tmp_path / "copy"))


def rewrite(shard: Path, into: Path, drop: str) -> None:
    """The shard without the members of one name's start, with zeros to the same size."""
    with tarfile.open(shard) as source, tarfile.open(into, "w") as copy:
        for member in source:
            if not member.name.startswith(drop):
                copy.addfile(member, source.extractfile(member))
    with into.open("ab") as file:
        file.write(bytes(max(0, shard.stat().st_size - into.stat().st_size)))


def test_a_shard_without_a_sample_is_refused(own: Published, kind: type, tmp_path: Path) -> None:
    copies = tmp_path / "copy"
    shutil.copytree(tmp_path / "shards", copies)
    rewrite(own.shards[2], copies / "shard-2.tar", "con.jpg")
    assert (copies / "shard-2.tar").stat().st_size == own.shards[2].stat().st_size
    with pytest.raises(ShardError, match=r"shard-2\.tar: the sample 'con' has no image"):
        list(kind(str(own.output), shards_at=str(copies)))
    rewrite(own.shards[2], copies / "shard-2.tar", "con")
    with pytest.raises(ShardError, match=r"shard-2.tar: .*('con' is gone|it has 1 samples)"):
        list(kind(str(own.output), shards_at=str(copies)))


def cut_after(samples: int, times: int) -> Callable[..., Iterator[Sample]]:
    """``read_samples`` whose connection is cut after some samples, so many times."""
    left = [times]

    def read(*arguments: Any, **named: Any) -> Iterator[Sample]:
        for sample in read_samples(*arguments, **named):
            if sample.index == samples and left[0]:
                left[0] -= 1
                raise ConnectionResetError("cut")
            yield sample

    return read


def test_a_cut_stream_goes_on_where_it_was(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = BoxStream(str(published.output), shuffle=0)
    whole = through_stream(stream)
    monkeypatch.setattr(shards, "read_samples", cut_after(3, times=1))
    assert through_stream(stream) == whole
    monkeypatch.setattr(shards, "read_samples", cut_after(3, times=2))
    with pytest.raises(ConnectionResetError):
        through_stream(stream)


def test_another_picture_of_the_same_key_is_refused(own: Published, tmp_path: Path) -> None:
    with tarfile.open(own.shards[2]) as source:
        file = source.extractfile("con.jpg")
        assert file is not None
        con = file.read()
        tarinfo = source.getmember("last.jpg")
    data = bytearray(own.shards[2].read_bytes())
    data[tarinfo.offset_data : tarinfo.offset_data + tarinfo.size] = con.ljust(tarinfo.size, b"\0")[
        : tarinfo.size
    ]
    (tmp_path / "copy").mkdir()
    for shard in own.shards[:2]:
        shutil.copy(shard, tmp_path / "copy")
    (tmp_path / "copy" / "shard-2.tar").write_bytes(data)
    dataset = BoxDataset(str(own.output), shards_at=str(tmp_path / "copy"))
    with pytest.raises(ShardError, match="'last' has 32 x 32 pixels and had 43 x 57"):
        dataset[len(dataset) - 2]


def test_compressed_shards_are_for_the_stream(own: Published, tmp_path: Path) -> None:
    packed = tmp_path / "shard.tar.gz"
    packed.write_bytes(gzip.compress(own.shards[0].read_bytes()))
    with pytest.raises(ShardError, match="only an uncompressed tar"):
        index_images(str(packed))


def test_a_large_sample_that_was_annotated_is_read(
    own: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run may raise input.max_sample_bytes; reading its shards again knows nothing of that."""
    monkeypatch.setattr("cambox.sources.samples.DEFAULT_MAX_SAMPLE_BYTES", 1000)
    monkeypatch.setattr(read_samples, "__defaults__", (None, None, 1000, ANY_IMAGE))
    (shard, *_) = find_shards([str(own.shards[0])])
    with pytest.raises(ShardError, match="the limit is 1000"):
        list(read_samples(shard))
    assert len(through_stream(BoxStream(str(own.output)))) == len(own.with_boxes)
    packed = tmp_path / "blank.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        add(archive, "blank.jpg", bytes(1_000_000))
    (shard,) = find_shards([str(packed)])
    (sample,) = read_samples(shard, max_sample_bytes=most_in_a_sample(shard))
    assert len(sample.members["jpg"]) == 1_000_000 > 100 * shard.size


class Asked:
    """Which bytes the memory file system is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
        cat_file, read, asked = MemoryFileSystem.cat_file, MemoryFile.read, self.ranges

        def counted_cat(
            self: MemoryFileSystem, path: str, start: int = 0, end: int | None = None
        ) -> bytes:
            data: bytes = cat_file(self, path, start, end)
            asked[path].append((start, start + len(data)))
            return data

        def counted_read(self: MemoryFile, size: int = -1) -> bytes:
            start = self.tell()
            data: bytes = read(self, size)
            asked[self.path].append((start, start + len(data)))
            return data

        monkeypatch.setattr(MemoryFileSystem, "cat_file", counted_cat)
        monkeypatch.setattr(MemoryFile, "read", counted_read, raising=False)


def test_no_map_and_no_footer_twice_is_asked_of_a_storage(
    published: Published, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    store = fsspec.filesystem("memory")
    generator = np.random.default_rng(0)
    output = OutputSettings(uri=f"memory://counted-{kind.__name__}")
    maps: dict[str, tuple[int, int]] = {}
    for shard in find_shards([str(path) for path in published.shards]):
        stored = StoredMap.of(0, 1, generator.uniform(0, 1, (300, 300)))
        rows = [replace(row, maps=(stored,)) for row in published.rows if row.shard == shard.uri]
        with_maps = table(rows, boxes_of(rows), CLASS_NAMES, with_maps=True)
        path = locate(publish(with_maps, shard, published.recipe, output))[1]
        group = pq.read_metadata(store.open(path)).row_group(0)
        column = group.column(group.num_columns - 1)
        assert column.path_in_schema == "maps.list.element.values"
        start = column.dictionary_page_offset or column.data_page_offset
        maps[path] = (start, start + column.total_compressed_size)
    # Else the end of a file that is read for its footer has the end of its maps in it.
    monkeypatch.setattr(footer, "TAIL_BYTES", 8)
    asked = Asked(monkeypatch)
    opened = kind(output.uri)
    found = len(list(opened)) if kind is BoxStream else len(opened)
    assert found == len(published.with_boxes)
    assert asked.ranges.keys() == maps.keys()
    for path, ranges in asked.ranges.items():
        start, end = maps[path]
        assert end - start > 50_000
        assert [one for one in ranges if one[0] < end and start < one[1]] == []
        # Once to know the file, and once to know where its columns lie.
        size = store.size(path)
        assert len([one for one in ranges if one[1] == size and one[1] - one[0] > 8]) == 2
        assert len(set(ranges)) == len(ranges) - 2


def test_a_storage_that_fails_for_a_moment_is_asked_again(
    published: Published, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{published.folder}/", f"/failing/{published.folder.name}/", recursive=True)
    cat_file, failed = MemoryFileSystem.cat_file, []

    def fails_once(self: MemoryFileSystem, path: str, *places: int | None) -> bytes:
        if path not in failed:
            failed.append(path)
            raise ConnectionResetError("cut")
        data: bytes = cat_file(self, path, *places)
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fails_once)
    opened = kind("memory://failing")
    found = len(list(opened)) if kind is BoxStream else len(opened)
    assert found == len(published.with_boxes)
    assert len(failed) == len(published.shards)
