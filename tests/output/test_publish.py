"""The Parquet file: its columns, its footer, and that it appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cambox.output.publish
import cambox.output.whole
from cambox.boxes import Boxes
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.footer import Footer, Recipe
from cambox.output.ledger import plan
from cambox.output.publish import file_name, is_temporary, publish, require_publishable, to_parquet
from cambox.output.rows import (
    ClassScore,
    Row,
    StoredMap,
    boxes_from_arrow,
    schema,
    table,
)
from cambox.output.whole import name_beside, publish_bytes
from cambox.sources.shards import Shard

RECIPE = Recipe('{"cam": {"top_k": 5}}', ("cat", "dog"), "0123456789abcdef" * 4)
SHARD = Shard("/data/shard-000000.tar", 2048, "2048-17")
ROWS = [
    Row(
        key="a/b",
        shard=SHARD.uri,
        sample_index=0,
        status="ok",
        error=None,
        width=40,
        height=30,
        labels=(1,),
        classes=(ClassScore(1, 1, 0.75),),
        maps=(StoredMap(1, 0, 1, 2, -1.0, 1.0, b"\x00\xff"),),
    ),
    Row("c", SHARD.uri, 1, "unreadable", "zero bytes", None, None, None),
]
BOXES = Boxes.of([[1.5, 2, 39.5, 30]], class_id=1, class_score=0.75, score=0.5, touches_edge=True)
OBJECT = {
    **{"class_id": 1, "class_name": "dog", "rank": 0, "class_score": 0.75, "box_score": 0.5},
    **{"x_min": 1.5, "y_min": 2, "x_max": 39.5, "y_max": 30},
    **{"component": 0, "touches_edge": True},
}
TABLE = table(ROWS, BOXES, RECIPE.class_names, with_maps=False)


def test_columns_and_types_are_the_contracts() -> None:
    written = table(ROWS, BOXES, RECIPE.class_names, with_maps=True)
    assert {field.name: str(field.type) for field in written.schema} == {
        "key": "string",
        "shard": "string",
        "sample_index": "int32",
        "status": "string",
        "error": "string",
        "width": "int32",
        "height": "int32",
        "labels": "list<item: int32>",
        "classes": "list<item: struct<class_id: int32, rank: int32, probability: float>>",
        "objects": "list<item: struct<class_id: int32, class_name: string, rank: int32, "
        "class_score: float, box_score: float, x_min: float, y_min: float, x_max: float, "
        "y_max: float, component: int32, touches_edge: bool>>",
        "maps": "list<item: struct<class_id: int32, rank: int32, height: int32, width: int32, "
        "low: float, high: float, values: binary>>",
    }
    first, second = written.to_pylist()
    assert first["objects"][0]["x_max"] == 39.5
    assert first["labels"] == [1]
    assert second["labels"] is None
    assert second["objects"] == []
    assert second["width"] is None
    assert "maps" not in TABLE.column_names


@pytest.mark.parametrize("times", [0, 1, 3])
@pytest.mark.parametrize("with_maps", [True, False])
def test_columns_built_one_by_one_are_arrows_own_reading_of_the_rows(
    times: int, with_maps: bool
) -> None:
    rows = times * ROWS
    boxes = Boxes.joined(BOXES.with_columns(image=BOXES.image + 2 * at) for at in range(times))
    objects = times * [[OBJECT], []]
    documents = [asdict(row) | {"objects": found} for row, found in zip(rows, objects, strict=True)]
    expected = pa.Table.from_pylist(documents, schema=schema(with_maps))
    written = table(rows, boxes, RECIPE.class_names, with_maps)
    written.validate(full=True)
    assert written.equals(expected)
    assert to_parquet(written) == to_parquet(expected)
    back = boxes_from_arrow(written["objects"])
    for name, values in vars(boxes).items():
        assert name == "outside" or vars(back)[name].tolist() == values.tolist()


def test_a_published_file_says_what_made_it_and_any_reader_opens_the_folder(
    tmp_path: Path,
) -> None:
    output = OutputSettings(uri=str(tmp_path / "out"))
    uri = publish(TABLE, SHARD, RECIPE, output)
    assert Path(uri).parent.name == RECIPE.digest[:16]
    metadata = pq.read_metadata(uri).metadata
    assert metadata[b"cambox.recipe_digest"].decode() == RECIPE.digest
    assert metadata[b"cambox.recipe"].decode() == RECIPE.settings
    footer = Footer.from_metadata(metadata)
    assert footer.shard == SHARD
    assert footer.classes == ("cat", "dog")
    assert footer.versions["cambox"]
    (Path(uri).parent / ".leftover.parquet").write_bytes(b"half a file")
    assert pyarrow.dataset.dataset(Path(uri).parent).count_rows() == 2


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    files = [
        Path(publish(TABLE, SHARD, RECIPE, OutputSettings(uri=str(tmp_path / name))))
        for name in ("one", "two")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


@given(st.lists(st.text("ab/.", min_size=1), min_size=2, max_size=6, unique=True))
@settings(max_examples=50)
def test_different_shards_have_different_visible_names(paths: list[str]) -> None:
    names = {file_name(f"s3://bucket/{path}.tar") for path in paths}
    assert len(names) == len(paths)
    assert all(name[0] not in "._" and "/" not in name for name in names)


@pytest.mark.parametrize("stem", ["x" * 251, "ä" * 125, "👩" * 62 + "abc", "x" * 1000])
@pytest.mark.parametrize("first", [True, False])
def test_a_shard_of_any_name_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str, first: bool
) -> None:
    """Such names are allowed to files, and those in buckets may be longer."""
    if not first:
        # Without links it is renamed under a lock, whose name is longer than the file's.
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    shard = replace(SHARD, uri=f"s3://bucket/{stem}.tar")
    output = OutputSettings(uri=str(tmp_path))
    uri = Path(publish(TABLE, shard, RECIPE, output))
    publish(TABLE.slice(0, 1), shard, RECIPE, output)
    digest = hashlib.sha256(shard.uri.encode()).hexdigest()[:16]
    assert re.fullmatch(rf"(.+)-{digest}\.parquet", uri.name)
    assert stem.startswith(uri.name[: -len(f"-{digest}.parquet")])
    assert 250 < len(uri.name.encode()) <= 255
    assert [path.name for path in uri.parent.iterdir()] == [uri.name]
    assert plan([shard], RECIPE, output).done == (shard,)
    assert is_temporary(name_beside(uri.name))
    assert len(name_beside(uri.name).encode()) <= 255


def _no_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_names_that_fit_stay_as_they_were() -> None:
    digest = hashlib.sha256(f"/in/{230 * 'x'}.tar".encode()).hexdigest()[:16]
    assert file_name(f"/in/{230 * 'x'}.tar") == f"{230 * 'x'}-{digest}.parquet"


def test_a_failed_publish_leaves_nothing_and_the_old_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = OutputSettings(uri=str(tmp_path))
    uri = Path(publish(TABLE, SHARD, RECIPE, output))
    before = uri.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(TABLE.slice(0, 1), SHARD, RECIPE, output)
    assert [path.name for path in uri.parent.iterdir()] == [uri.name]
    assert uri.read_bytes() == before


@pytest.mark.parametrize("store", ["local", "memory"])
def test_the_plan_is_read_from_the_footers(tmp_path: Path, store: str) -> None:
    root = str(tmp_path) if store == "local" else f"memory://{tmp_path.name}"
    output = OutputSettings(uri=f"{root}/out")
    others = [Shard(f"/data/shard-{number:06d}.tar", 100 * number, "x") for number in (1, 2)]
    assert plan([SHARD, *others], RECIPE, output).new == (SHARD, *others)
    for shard in (SHARD, others[0]):
        publish(TABLE, shard, RECIPE, output)
    grown = replace(others[0], size=5000, fingerprint="y")
    work = plan([SHARD, grown, others[1]], RECIPE, output)
    assert (work.done, work.changed, work.new) == ((SHARD,), (grown,), (others[1],))
    assert work.to_do == (grown, others[1])
    assert plan([SHARD], replace(RECIPE, digest="f" * 64), output).new == (SHARD,)


@pytest.mark.parametrize("damage", [b"", b"PAR1 but no footer", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_not_whole_or_not_ours_is_made_again(tmp_path: Path, damage: bytes) -> None:
    output = OutputSettings(uri=str(tmp_path))
    uri = Path(publish(TABLE, SHARD, RECIPE, output))
    uri.write_bytes(damage)
    assert plan([SHARD], RECIPE, output).changed == (SHARD,)
    pq.write_table(pa.table({"key": ["a"]}), uri)
    assert plan([SHARD], RECIPE, output).changed == (SHARD,)


def test_an_object_store_gets_the_whole_object_at_once() -> None:
    uri = publish(TABLE, SHARD, RECIPE, OutputSettings(uri="memory://published"))
    with fsspec.open(uri, "rb") as file:
        assert pq.read_table(file).num_rows == 2


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-1e3, 1e3, width=32),
    )
)
@settings(max_examples=100, deadline=None)
def test_stored_maps_come_back_to_half_a_step(score_map: np.ndarray) -> None:
    stored = StoredMap.of(3, 1, score_map)
    step = (stored.high - stored.low) / 255
    assert np.abs(stored.restore() - score_map).max() <= step / 2 + 1e-3 * step + 1e-4
    assert stored.restore().shape == score_map.shape


def test_a_map_that_is_not_finite_is_stored_as_nothing() -> None:
    stored = StoredMap.of(3, 1, np.array([[1, np.nan]], np.float32))
    assert (stored.low, stored.high, stored.values) == (0, 0, b"\x00\x00")


@pytest.mark.parametrize("protocol", ["hdfs", "webhdfs"])
def test_a_storage_that_writes_in_place_gets_the_file_beside_and_then_its_name(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for Hadoop, which no test has: what a reader sees after each step."""
    visible: list[dict[str, bytes]] = []

    class InPlace(type(fsspec.filesystem("memory"))):  # type: ignore[misc]
        cachable = False

        def note(self) -> None:
            names = [name for name in self.ls("/out", detail=False) if name[5] != "."]
            visible.append({name: self.cat_file(name) for name in names})

        def pipe_file(self, path: str, value: bytes, **options: object) -> None:
            super().pipe_file(path, value[: len(value) // 2], **options)
            self.note()
            super().pipe_file(path, value, **options)
            self.note()

        def mv(self, path1: str, path2: str, **options: object) -> None:
            if protocol == "webhdfs" and self.exists(path2):
                return
            super().mv(path1, path2, **options)
            self.note()

    filesystem = InPlace()
    filesystem.store.clear()
    monkeypatch.setattr(cambox.output.whole, "locate", lambda *_: (filesystem, "/out/a.parquet"))
    for data in (b"the first", b"the second one"):
        publish_bytes(f"{protocol}://server/out/a.parquet", data)
        assert visible[-1] == {"/out/a.parquet": data}
    whole = ({}, {"/out/a.parquet": b"the first"}, {"/out/a.parquet": b"the second one"})
    assert all(seen in whole for seen in visible)
    assert len(filesystem.ls("/out")) == 1


@pytest.mark.parametrize("store", ["disk", "object store"])
def test_an_output_that_cannot_be_written_is_told_before_any_shard_and_one_that_can_stays_clean(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "out") if store == "disk" else "memory://unwritable/out"
    output = OutputSettings(uri=uri)
    require_publishable(output, RECIPE)
    filesystem, folder = fsspec.url_to_fs(uri)
    assert filesystem.find(folder, withdirs=False) == []

    def refuse(error: OSError) -> Callable[..., None]:
        def fail(*arguments: object, **more: object) -> None:
            raise error

        return fail

    owner, name = cambox.output.publish, "publish_bytes"
    if store == "disk":
        name = "TemporaryFile"
    monkeypatch.setattr(owner, name, refuse(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(RequestError, match=r"--to: .*out cannot be written: Permission denied"):
        require_publishable(output, RECIPE, "--to")
    # What may be over when the first shard is done is its own affair.
    for number in (errno.EIO, errno.ENOSPC):
        monkeypatch.setattr(owner, name, refuse(OSError(number, "for now")))
        require_publishable(output, RECIPE)
