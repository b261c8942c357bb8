"""A run whose labels or maps say nothing ends with a warning; one that works does not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from cambox.boxes import Boxes
from cambox.output.rows import ClassScore, Row
from cambox.run import run
from cambox.signs import Signs
from cambox.summary import print_summary
from conftest import ConfigMaker
from makers import write_tar


def rows(labels: list[tuple[int, ...] | None], predicted: list[int]) -> list[Row]:
    return [
        Row(f"{place}", "a.tar", place, "ok", None, 40, 20, given, (ClassScore(best, 1, 0.5),))
        for place, (given, best) in enumerate(zip(labels, predicted, strict=True))
    ]


def signs(labels: list[tuple[int, ...] | None], predicted: list[int], classes: int) -> Signs:
    return Signs.of(rows(labels, predicted), Boxes.of(()), classes, labels_used=True)


def test_labels_of_other_classes_are_warned_of() -> None:
    generator = np.random.default_rng(0)
    labels = [(int(one),) for one in generator.integers(0, 12, 200)]
    unrelated = generator.integers(12, 1000, 200).tolist()
    (warning,) = signs(labels, unrelated, 1000).warnings
    assert "is a given label in 0 of 200 images, where chance gives 0.2" in warning
    # Shuffled among their own twelve, where a twelfth is right by chance.
    shuffled = generator.permutation([one for (one,) in labels]).tolist()
    assert signs(labels, shuffled, 12).warnings
    # A third right is a poor classifier, and one that knows the classes.
    third = [one if place % 3 == 0 else -1 for place, (one,) in enumerate(labels)]
    assert signs(labels, third, 12).warnings == ()
    assert signs(labels, third, 1000).warnings == ()
    assert signs(labels[:29], unrelated[:29], 1000).warnings == ()  # too few to tell
    assert signs([(0,)] * 50, [0] * 50, 1).warnings == ()  # with one class there is no chance
    assert signs([None, ()] * 50, [0, 0] * 50, 1000).warnings == ()


def test_boxes_that_fill_the_image_are_warned_of() -> None:
    some = rows([None] * 40, [0] * 40)
    for filling, warned in ((21, True), (20, False)):
        corners = [[0, 0, 40, 20]] * (filling - 1) + [[0, 0, 36, 20]]
        corners += [[0, 0, 35.9, 20]] * (40 - filling)
        found = Signs.of(some, Boxes.of(corners, image=range(40)), 10, labels_used=False)
        assert found.filling == filling
        assert bool(found.warnings) == warned
    assert (
        "21 of 40 boxes fill the image"
        in (Signs(boxes=30, filling=1) + Signs(boxes=10, filling=20)).warnings[0]
    )


def test_the_summary_of_a_run_warns(make_config: ConfigMaker, tmp_path: Path) -> None:
    """Random weights, which know nothing of the labels."""
    generator = np.random.default_rng(0)
    members = []
    for number in range(40):
        buffer = io.BytesIO()
        grain = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(grain).save(buffer, "PNG")
        members += [(f"{number}.png", buffer.getvalue()), (f"{number}.cls", b"%d" % (number % 20))]
    write_tar(tmp_path / "a.tar", members)
    config = make_config(
        f"input.shards={tmp_path}/a.tar", "model.kwargs={num_classes: 1000}", "cam.classes=label"
    )
    summary = run(config, Console(file=io.StringIO()))
    output = io.StringIO()
    print_summary(summary, Console(file=output, width=2000))
    assert "warning: the model's best class is a given label in" in output.getvalue()
    assert summary.to_json()["warnings"] == list(summary.warnings) != []
