"""Reviewed rows stand in for pseudo boxes wherever rows are read, for their picture alone."""

from __future__ import annotations

import logging
import pickle
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import cambox
from cambox.errors import RequestError
from cambox.output.reading import open_recipe
from cambox.output.reviewed import ReviewedRow, keep_reviewed, read_reviewed, with_rows
from cambox.sources.shards import find_shards
from cambox.training.labelled import TrainingSet
from cambox.training.selection import Selection
from makers import Published, publish_rows

NOW = datetime(2026, 11, 27, tzinfo=UTC)
CORNERS = {"x_min": 3.0, "y_min": 4.0, "x_max": 30.0, "y_max": 28.0}


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish_rows(tmp_path)


def box(class_id: int, class_name: str) -> dict[str, object]:
    of_people = {"rank": 0, "class_score": 1.0, "box_score": 1.0, "component": 0}
    return {
        "class_id": class_id,
        "class_name": class_name,
        **of_people,
        **CORNERS,
        "touches_edge": False,
    }


def review(
    published: Published, shard: int, key: str, *objects: dict[str, object], state: str = ""
) -> ReviewedRow:
    (found,) = find_shards([str(published.shards[shard])])
    size = {"width": 61, "height": 40}
    return ReviewedRow(
        shard=found.uri,
        key=key,
        sha256="0" * 64,
        **size,
        complete=True,
        objects=objects,
        same_in=(state or found.fingerprint,),
        source="review.json",
        reviewed_at=NOW,
    )


def keep(published: Published, *rows: ReviewedRow) -> None:
    keep_reviewed(str(published.output), lambda there: with_rows(there, rows))


def test_every_reader_has_the_boxes_of_people(published: Published) -> None:
    before = cambox.read(str(published.output)).to_table().to_pylist()
    rows = (
        review(published, 0, "dog/1", box(2, "dotted")),
        review(published, 0, "turned"),
        review(published, 1, "unlabelled", box(0, "striped")),
    )
    keep(published, *rows)
    expected = {(row.shard, row.key): list(row.objects) for row in rows}

    dataset = cambox.read(str(published.output))
    read = dataset.to_table().to_pylist()
    for old, new in zip(before, read, strict=True):
        place = new["shard"], new["key"]
        assert new.pop("reviewed") is (place in expected)
        if place in expected:
            old |= {"objects": expected[place], "status": "ok"}
        assert new == old
    # By columns, by a filter, and from another process.
    for one in (dataset, pickle.loads(pickle.dumps(dataset))):
        keys = one.to_table(columns=["key"], filter=pa.compute.field("reviewed"))["key"]
        assert sorted(keys.to_pylist()) == ["dog/1", "turned", "unlabelled"]
    assert dataset.count_rows() == len(before)

    recipe = open_recipe(str(published.output))
    columns = ["objects.list.element.class_id", "objects.list.element.x_min", "reviewed"]
    streamed = [row for batch in recipe.batches(columns) for row in batch.to_pylist()]
    for whole, part in zip(dataset.to_table().to_pylist(), streamed, strict=True):
        boxes = [{name: one[name] for name in ("class_id", "x_min")} for one in whole["objects"]]
        assert part == {"objects": boxes, "reviewed": whole["reviewed"]}
    (first, *_) = recipe.files[0].rows_at([0])
    assert first["objects"] == [box(2, "dotted")]
    assert first["reviewed"] is True

    pseudo = open_recipe(str(published.output), reviewed=False)
    stored = [row for batch in pseudo.batches(["key", "objects"]) for row in batch.to_pylist()]
    assert [row["key"] for row in stored] == [row["key"] for row in before]
    assert stored[0]["objects"] != [box(2, "dotted")]


def test_training_takes_them_whatever_it_leaves_out_and_a_picture_that_is_rightly_empty(
    published: Published,
) -> None:
    keep(
        published,
        review(published, 0, "dog/1", box(2, "dotted"), box(2, "dotted")),
        review(published, 0, "nothing"),
    )
    strict = Selection(min_score=1.0, only_labels=True, max_component=0)
    training = TrainingSet.open(str(published.output), strict)
    images = [image for part in training.read(0) for image in part]
    assert [(image.key, len(image.boxes)) for image in images] == [("dog/1", 2), ("nothing", 0)]


def test_a_state_that_nobody_has_checked_keeps_the_pseudo_boxes_and_is_said(
    published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    row = review(published, 0, "dog/1", box(2, "dotted"), state="of yesterday")
    keep(published, row)
    with caplog.at_level(logging.WARNING):
        table = cambox.read(str(published.output)).to_table()
    assert "reviewed" not in table.column_names
    (record,) = caplog.records
    assert "1 not checked since their shard has changed" in record.getMessage()
    assert f"cambox corrections --check {published.output}" in record.getMessage()
    # Another picture is there: nothing to be said, and nothing to be taken.
    (now,) = find_shards([str(published.shards[0])])
    keep(published, row.seen_in(now.fingerprint, same=False))
    caplog.clear()
    assert "reviewed" not in cambox.read(str(published.output)).to_table().column_names
    assert not caplog.records


def test_classes_are_told_by_their_names(published: Published) -> None:
    keep(published, review(published, 0, "dog/1", box(0, "dotted")))
    first = cambox.read(str(published.output)).head(1).to_pylist()[0]
    assert first["objects"] == [box(2, "dotted")]
    # Two classes of the recipe are called so, and neither is number 0.
    keep(published, review(published, 0, "dog/1", box(0, "crane")))
    assert "reviewed" not in cambox.read(str(published.output)).schema.names


def test_a_later_review_of_a_picture_takes_the_place_of_the_one_before(
    published: Published,
) -> None:
    row = review(published, 0, "dog/1", box(2, "dotted"), state="first")
    later = replace(
        row, objects=(), same_in=("second",), reviewed_at=NOW + timedelta(1), source="later.json"
    )
    keep(published, row)
    keep(published, later)
    (kept,) = read_reviewed(str(published.output))
    assert kept == replace(later, same_in=("first", "second"))
    # Of another picture under the same key both stay.
    keep(published, replace(row, sha256="1" * 64))
    assert len(read_reviewed(str(published.output))) == 2


def test_of_writers_at_once_none_loses_what_it_wrote(published: Published) -> None:
    threads = [
        threading.Thread(target=keep, args=(published, review(published, 0, f"key-{number}")))
        for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [row.key for row in read_reviewed(str(published.output))]
    assert keys == [f"key-{number}" for number in range(6)]


def test_a_damaged_file_is_named(published: Published) -> None:
    keep(published, review(published, 0, "dog/1"))
    place = published.output / "_reviewed" / "rows"
    place.write_bytes(place.read_bytes()[:-3])
    with pytest.raises(RequestError, match="_reviewed/rows is damaged"):
        cambox.read(str(published.output))
