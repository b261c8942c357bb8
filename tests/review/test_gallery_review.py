"""What a reviewer says in the gallery: kept, taken back, counted, and saved as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import quickjs

from makers import ROOT

GALLERY = ROOT / "pipeline" / "cambox" / "review" / "gallery"
STORE = """
var kept = new Map(), full = false;
var store = {
  getItem: (name) => kept.get(name) ?? null,
  setItem: (name, text) => { if (full) throw new Error("full"); kept.set(name, text); },
  removeItem: (name) => kept.delete(name),
};
"""


def box(class_id: int, *sides: float) -> dict[str, Any]:
    return {"class_id": class_id, "box_score": 0.71, "sides": sides}


def item(key: str, *boxes: dict[str, Any], status: str = "ok") -> dict[str, Any]:
    size = {"width": 640, "height": 480}
    return {"key": key, "shard": 0, "status": status, **size, "boxes": boxes}


ITEMS = [
    item("two", box(1, 1.5, 2, 30, 40), box(0, 5, 6, 70, 80)),
    item("none"),
    item("torn", status="unreadable"),
    item("one", box(1, 0, 0, 640, 480)),
]
Script = Callable[[str], Any]


@pytest.fixture
def script() -> Script:
    """Runs lines of JavaScript beside the page's own, without a page; gives the last one's value.

    ``review()`` opens the page anew; ``kept`` is what the browser has.
    """
    context = quickjs.Context()
    for name in ("filters.js", "decisions.js"):
        context.eval((GALLERY / name).read_text().replace("\nconst ", "\nvar ", 1))
    context.eval(STORE)
    data = {
        "recipe": "ab" * 32,
        "classes": ["crane", "crown", "owl"],
        "shards": ["s3://a.tar"],
        "items": ITEMS,
    }
    context.set("page", json.dumps(data))
    context.eval("var review = () => Decisions.start(JSON.parse(page), store)")

    def run(lines: str) -> Any:
        text = context.eval(f"(() => {{ {lines} }})()")
        return json.loads(text) if isinstance(text, str) else text

    return run


def test_the_file_has_the_rows_that_were_decided_and_their_other_boxes(script: Script) -> None:
    file = script(
        "const one = review(); one.decide(0, [0], 'accept'); one.decide(1, [null], 'accept');"
        "one.decide(3, [0], 'wrong_class', 'owl'); return JSON.stringify(one.file('now'));"
    )
    assert {name: file[name] for name in ("format", "recipe", "made_at")} == {
        "format": "cambox-review-1",
        "recipe": "ab" * 32,
        "made_at": "now",
    }
    first, empty, last = file["rows"]
    size = {"shard": "s3://a.tar", "width": 640, "height": 480}
    assert empty == {**size, "key": "none", "verdict": "accept", "boxes": []}
    sides = {"x_min": 1.5, "y_min": 2, "x_max": 30, "y_max": 40}
    shown = {"class_id": 1, "class_name": "crown", **sides, "box_score": 0.71}
    assert first["key"] == "two"
    assert first["boxes"][0] == {**shown, "verdict": "accept", "to_class": None}
    assert first["boxes"][1]["verdict"] is None
    assert [(one["verdict"], one["to_class"]) for one in last["boxes"]] == [("wrong_class", "owl")]


def test_progress_counts_boxes_and_pictures_without_any(script: Script) -> None:
    done = script(
        "const one = review(); one.decide(0, [0, 1], 'accept'); one.decide(1, [null], 'accept');"
        "one.decide(0, [1], 'reject'); return JSON.stringify(one.progress());"
    )
    # Of the unreadable one nothing can be said.
    assert done == {"units": 4, "done": 3, "accept": 2, "reject": 1, "wrong_class": 0}


def test_each_step_is_taken_back_whole(script: Script) -> None:
    steps = script(
        "const one = review(); one.decide(0, [0], 'reject'); one.decide(0, [0, 1], 'accept');"
        "const back = [one.undo(), one.file().rows[0].boxes.map((box) => box.verdict)];"
        "return JSON.stringify([...back, one.undo(), one.file().rows, one.undo(), kept.size]);"
    )
    step = {"at": 0, "unit": 0}
    assert steps == [step, ["reject", None], step, [], None, 0]


def test_a_page_that_is_opened_again_remembers(script: Script) -> None:
    again = script(
        "const one = review(); one.decide(0, [1], 'wrong_class', 'owl');"
        "one.decide(1, [null], 'accept'); const again = review();"
        "return JSON.stringify([one.file('') , again.file(''), again.state]);"
    )
    assert again[0] == again[1]
    assert len(again[0]["rows"]) == 2
    assert again[2]["recalled"] == 2
    assert again[2]["kept"]


@pytest.mark.parametrize("other", ["'s3://b.tar'", "'s3://a.tar', moved"])
def test_what_was_said_of_other_boxes_is_not_said_of_these(script: Script, other: str) -> None:
    state = script(
        "review().decide(3, [0], 'accept');"
        f"const [shard, moved] = [{other.replace(', moved', ', true')}];"
        "const data = JSON.parse(page); data.shards = [shard];"
        "if (moved) data.items[3].boxes[0].sides[0] = 9;"
        "const one = Decisions.start(data, store);"
        "return JSON.stringify({rows: one.file('').rows, other: one.state.other});"
    )
    assert state == {"rows": [], "other": int("moved" in other)}


def test_a_browser_that_keeps_nothing_is_said_and_loses_nothing(script: Script) -> None:
    state = script(
        "full = true; const one = review(); one.decide(3, [0], 'accept');"
        "return JSON.stringify([one.state.kept, one.file('').rows.length]);"
    )
    assert state == [False, 1]


@pytest.mark.parametrize(
    ("text", "name"),
    [("owl", "owl"), (" OWL ", "owl"), ("cran", "crane"), ("cr", None), ("", None), ("x", None)],
)
def test_a_class_is_meant_by_its_name_or_the_beginning_of_it_alone(
    script: Script, text: str, name: str | None
) -> None:
    named = f"return JSON.stringify(Decisions.named(['crane', 'crown', 'owl'], {text!r}));"
    assert script(named) == name
