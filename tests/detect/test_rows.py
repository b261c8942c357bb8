"""Which of a detector's boxes become rows, against the rule written out box by box."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.boxes import Boxes
from cambox.detect.rows import Rule, detected_rows
from cambox.output.rows import ClassScore, Row, table
from cambox.verify.findings import Findings
from cambox.verify.rows import RowChecks

NAMES = ("a", "b", "c", "d", "e")
WIDTH, HEIGHT = 50, 40
SHARD = "shard.tar"
CLASS_IDS = st.integers(0, len(NAMES) - 1)


@st.composite
def rows(draw: st.DrawFn, index: int) -> Row:
    labels = draw(st.none() | st.lists(CLASS_IDS, max_size=2, unique=True).map(tuple))
    predicted = draw(st.lists(CLASS_IDS, max_size=3, unique=True))
    classes = tuple(
        ClassScore(class_id, rank, 0.5 / rank) for rank, class_id in enumerate(predicted, 1)
    )
    return Row(str(index), SHARD, index, "ok", None, WIDTH, HEIGHT, labels, classes)


CORNERS = st.tuples(*(st.floats(-5, 55, width=32) for _ in range(4)))
FOUND = st.lists(st.tuples(st.integers(0, 2), CLASS_IDS, st.floats(0, 1, width=32), CORNERS))
RULES = st.builds(
    Rule,
    min_score=st.floats(0, 1),
    max_boxes=st.none() | st.integers(1, 2),
    any_class=st.booleans(),
)


@settings(deadline=None)
@given(st.tuples(*(rows(index) for index in range(3))), FOUND, RULES)
def test_kept_boxes_are_those_of_the_rule(
    made_rows: tuple[Row, ...], found: list[tuple], rule: Rule
) -> None:
    before = Boxes.of([[1, 2, 3, 4]], image=0, class_id=4, class_score=0.125)
    boxes = Boxes.of(
        [corners for *_, corners in found],
        image=[row for row, *_ in found],
        class_id=[class_id for _, class_id, *_ in found],
        score=[score for _, _, score, _ in found],
    )
    made, report = detected_rows(
        table(made_rows, before, NAMES, with_maps=False), boxes, np.ones(3, bool), rule, NAMES
    )

    findings = Findings(SHARD)
    checks = RowChecks(SHARD, NAMES, findings)
    for batch in made.to_batches():
        checks.check(batch)
    # Labels and classes were drawn at random, and are not what is checked here.
    assert not list(findings.problems())

    expected: dict[tuple[int, int], list[float]] = {}
    for row, class_id, score, (x_min, y_min, x_max, y_max) in found:
        labels = made_rows[row].labels or ()
        predicted = [one.class_id for one in made_rows[row].classes]
        wanted = class_id in labels or (class_id in predicted and (rule.any_class or not labels))
        inside = max(x_min, 0) < min(x_max, WIDTH) and max(y_min, 0) < min(y_max, HEIGHT)
        if wanted and inside and score >= np.float32(rule.min_score):
            expected.setdefault((row, class_id), []).append(score)
    written: dict[tuple[int, int], list[float]] = {}
    for row in made.to_pylist():
        index, labels = row["sample_index"], row["labels"] or ()
        probabilities = {one["class_id"]: one["probability"] for one in row["classes"]}
        ranks = {one["class_id"]: one["rank"] for one in row["classes"]}
        for item in row["objects"]:
            class_id = item["class_id"]
            assert item["rank"] == (0 if class_id in labels else ranks[class_id])
            told = probabilities.get(class_id, 0.125 if (index, class_id) == (0, 4) else 0.0)
            assert item["class_score"] == np.float32(told)
            assert item["class_name"] == NAMES[class_id]
            written.setdefault((index, class_id), []).append(item["box_score"])
    best = {key: sorted(scores, reverse=True)[: rule.max_boxes] for key, scores in expected.items()}
    assert written == best
    assert report.boxes == sum(map(len, best.values()))
    without = sum(
        (index, label) not in best
        for index, row in enumerate(made_rows)
        for label in row.labels or ()
    )
    assert (report.rows, report.labels_without_box) == (3, without)


def test_everything_but_the_boxes_stays_and_maps_go() -> None:
    row = Row("k", SHARD, 0, "ok", None, WIDTH, HEIGHT, (1,), (ClassScore(2, 1, 0.5),))
    failed = Row("torn", SHARD, 1, "unreadable", "cut", None, None, None)
    before = table((row, failed), Boxes.of([[1, 1, 2, 2]], class_id=1), NAMES, with_maps=True)
    found = Boxes.of([[10, 0.25, 20, 30]], class_id=1, score=0.75)
    made, _ = detected_rows(before, found, np.array([True, False]), Rule(), NAMES)
    assert made.drop(["objects"]).equals(before.drop(["objects", "maps"]))
    assert made["objects"].to_pylist() == [
        [
            {
                **{"class_id": 1, "class_name": "b", "rank": 0, "class_score": 0.0},
                **{"box_score": 0.75, "x_min": 10.0, "y_min": 0.25, "x_max": 20.0, "y_max": 30.0},
                **{"component": 0, "touches_edge": True},
            }
        ],
        [],
    ]
    assert pa.types.is_list(made.schema.field("objects").type)
