"""The gallery: what is counted, what is sampled, what the page holds, and what cannot get out."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import quickjs
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from cambox.cli import app
from cambox.config import Config
from cambox.errors import RequestError
from cambox.output.published_file import PublishedFile
from cambox.output.reading import open_recipe
from cambox.review import pictures
from cambox.review.gallery.collect import collect
from cambox.review.gallery.page import render_page, script_safe_json, short_count
from cambox.review.gallery.suspects import read_suspects
from cambox.review.pictures import choose_rows, choose_shards, row_turns
from cambox.run import run
from cambox.sources.shards import Shard
from makers import ROOT, write_tar

BAD_NAME = "</script><script>window.hacked=1</script><b>"
FILTERS = ROOT / "pipeline" / "cambox" / "review" / "gallery" / "filters.js"


def picture(seed: int, height: int, width: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    _, encoded = cv2.imencode(".jpg", cv2.resize(pixels, (width, height)))
    return encoded.tobytes()


@pytest.fixture
def hostile_shards(tmp_path: Path) -> Path:
    """Two shards with a key that is HTML, an unreadable image, and a sample without an image."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    first: dict[str, bytes] = {}
    for number in range(5):
        first[f"one-{number}.jpg"] = picture(number, 60 + number, 90)
        first[f"one-{number}.cls"] = str(number).encode()
    first["<script>alert(1)<!-- &amp; .jpg"] = picture(9, 50, 50)
    first["<script>alert(1)<!-- &amp; .cls"] = b"3"
    write_tar(folder / "shard-0.tar", first)
    second = {f"two-{number}.jpg": picture(20 + number, 40, 70) for number in range(3)}
    second |= {"torn.jpg": picture(30, 40, 40)[:100], "text.txt": b"no image", "text.cls": b"1"}
    write_tar(folder / "shard-1.tar", second)
    return folder


@pytest.fixture
def hostile(
    tmp_path: Path, make_config: Callable[..., Config], hostile_shards: Path
) -> Callable[..., Path]:
    """Annotate them; a class's name is HTML as well."""
    names = tmp_path / "names.txt"
    names.write_text("\n".join([BAD_NAME, *(f"class {number}" for number in range(1, 10))]))

    def annotate(*overrides: str) -> Path:
        config = make_config(
            f"input.shards=[{hostile_shards}/*.tar]",
            f"model.class_names={names}",
            "cam.classes=both",
            "cam.top_k=10",
            *overrides,
        )
        summary = run(config, Console(file=io.StringIO()))
        assert summary.complete
        return Path(summary.folder)

    return annotate


class Scripts(HTMLParser):
    """The scripts of a page, as an HTML parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.tags: Counter[str] = Counter()
        self._attributes: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag == "script":
            self._attributes = dict(attrs)
            self.found.append((self._attributes, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._attributes = None

    def handle_data(self, data: str) -> None:
        if self._attributes is not None:
            attributes, text = self.found[-1]
            self.found[-1] = attributes, text + data


def page_data(page: str) -> dict:
    (text,) = [text for attributes, text in Scripts(page).found if attributes.get("id") == "data"]
    return json.loads(text)


def all_rows(folder: Path) -> list[dict]:
    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def test_the_figures_are_those_of_all_rows(hostile: Callable[..., Path]) -> None:
    folder = hostile()
    rows = all_rows(folder)
    counts = collect(str(folder), sample=2).distributions
    assert counts.statuses == Counter(row["status"] for row in rows)
    assert {"ok", "unreadable", "no_image", "no_label"} >= set(counts.statuses)
    boxes = [(row, box) for row in rows for box in row["objects"]]
    assert counts.boxes == len(boxes) > 20
    per_image = Counter(min(len(row["objects"]), 20) for row in rows if row["status"] == "ok")
    assert counts.boxes_per_image.tolist() == [per_image[count] for count in range(21)]
    assert counts.class_boxes.tolist() == [
        sum(box["class_id"] == class_id for _, box in boxes) for class_id in range(10)
    ]
    assert counts.at_edge == sum(box["touches_edge"] for _, box in boxes)
    edges = np.linspace(0, 1, 21)
    scores = [box["box_score"] for _, box in boxes]
    assert counts.box_scores.tolist() == np.histogram(scores, edges)[0].tolist()
    areas = [
        (box["x_max"] - box["x_min"]) * (box["y_max"] - box["y_min"]) / row["width"] / row["height"]
        for row, box in boxes
    ]
    assert counts.areas.sum() == len(boxes)
    # Areas lie on the edge of a step often enough: 0.25 of the image, for one.
    near = np.abs(np.cumsum(counts.areas) - np.cumsum(np.histogram(areas, edges)[0]))
    assert near.max() <= sum(min(abs(area - edge) for edge in edges) < 1e-6 for area in areas)
    # Of each box its size, and how many of its class the image has.
    sizes = Counter(sum(area >= border for border in (0.01, 0.05, 0.15, 0.5)) for area in areas)
    assert counts.by_size[:, 0].tolist() == [sizes[size] for size in range(5)]
    numbers: dict[int, list[float]] = {1: [], 2: [], 3: [], 4: []}
    for row in rows:
        of_class = Counter(box["class_id"] for box in row["objects"])
        for box in row["objects"]:
            numbers[min(of_class[box["class_id"]], 4)].append(box["box_score"])
    assert counts.by_number[:, 0].tolist() == [len(some) for some in numbers.values()]
    assert counts.by_number[:, 1] == pytest.approx([sum(some) for some in numbers.values()])
    reasons = {(reason.status, reason.rows) for reason in counts.reasons}
    assert {("unreadable", 1), ("no_image", 1)} <= reasons


def test_the_page_holds_boxes_maps_and_pictures_of_the_rows(hostile: Callable[..., Path]) -> None:
    folder = hostile("output.store_maps=true")
    page = render_page(collect(str(folder), sample=100))
    data = page_data(page)
    rows = {row["key"]: row for row in all_rows(folder)}
    assert {item["key"] for item in data["items"]} == set(rows)
    pictures = {
        attributes["id"]: text
        for attributes, text in Scripts(page).found
        if attributes.get("type") == "text/plain"
    }
    for place, item in enumerate(data["items"]):
        row = rows[item["key"]]
        assert (item["status"], item["error"]) == (row["status"], row["error"])
        for box, true in zip(item["boxes"], row["objects"], strict=True):
            # Exactly, as a correction is of the box of the row.
            sides = [true[side] for side in ("x_min", "y_min", "x_max", "y_max")]
            assert np.float32(box["sides"]).tolist() == sides
            assert np.float32(box["box_score"]) == true["box_score"]
            assert data["classes"][box["class_id"]] == true["class_name"]
        for shown, stored in zip(item["maps"], row["maps"], strict=True):
            assert base64.b64decode(shown["values"]) == stored["values"]
            assert (shown["height"], shown["width"]) == (stored["height"], stored["width"])
        if row["status"] in ("unreadable", "no_image"):
            assert f"picture-{place}" not in pictures
        else:
            image = cv2.imdecode(
                np.frombuffer(base64.b64decode(pictures[f"picture-{place}"]), np.uint8), 1
            )
            assert image.shape[:2] == (row["height"], row["width"])


def test_no_text_of_the_data_becomes_part_of_the_page(hostile: Callable[..., Path]) -> None:
    folder = hostile("output.store_maps=true")
    gallery = collect(str(folder), sample=100)
    page = render_page(gallery)
    scripts = Scripts(page)
    types = Counter(attributes.get("type") for attributes, _ in scripts.found)
    assert types == {"application/json": 1, "text/plain": 9, None: 1}
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert BAD_NAME in page_data(page)["classes"]
    assert "<script>alert(1)<!-- &amp; " in {item["key"] for item in page_data(page)["items"]}
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src &#39;none&#39;; img-src data:; script-src &#39;sha256-")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


@given(st.text() | st.dictionaries(st.text(), st.lists(st.text())))
def test_json_in_a_script_is_the_value_and_nothing_else(value: object) -> None:
    text = str(script_safe_json(value))
    assert json.loads(text) == value
    assert not re.search("[<>&\u2028\u2029]", text)


def test_without_maps_the_page_says_how_to_get_them(hostile: Callable[..., Path]) -> None:
    page = render_page(collect(str(hostile()), sample=3))
    assert "output.store_maps=true" in page
    assert re.search(r'id="heat"[^>]* disabled', page)
    assert all(not item["maps"] for item in page_data(page)["items"])


def test_where_shards_are_gone_or_changed_the_frames_say_so(
    hostile: Callable[..., Path], hostile_shards: Path
) -> None:
    folder = hostile()
    (hostile_shards / "shard-0.tar").unlink()
    other = {f"two-{number}.jpg": picture(20 + number, 41, 70) for number in range(2)}
    other["padding.txt"] = bytes(9000)  # of the same length in whole records
    write_tar(hostile_shards / "shard-1.tar", other)
    gallery = collect(str(folder), sample=100)
    problems = {item.row["key"]: item.problem or "" for item in gallery.items}
    assert "cannot be read" in problems["one-0"]
    assert "70 x 41 pixels here, and the row is of one of 70 x 40" in problems["two-0"]
    assert "no sample of this key" in problems["two-2"]
    assert not any(item.thumbnail for item in gallery.items)
    assert gallery.tiles == []
    assert gallery.changed_shards == [str(hostile_shards / "shard-1.tar")]
    page = render_page(gallery)
    assert "1 of these shards are not as they were" in page
    assert "cannot be read" in page_data(page)["items"][0]["problem"]


def test_a_failed_row_is_shown_even_where_the_sample_misses_it(
    hostile: Callable[..., Path],
) -> None:
    gallery = collect(str(hostile()), sample=10, seed=4, most_shards=1)
    assert gallery.sampled_shards == 1
    rows = [item.row for item in gallery.items]
    failed = [row for row in rows if row["status"] in ("unreadable", "no_image")]
    assert failed
    assert all(row["error"] for row in failed)


def write_suspects(path: Path, *rows: tuple[str, Path, str | None, str | None, float]) -> Path:
    names = ("key", "shard", "class_name", "likelier", "doubt")
    table = [dict(zip(names, (row[0], str(row[1]), *row[2:]), strict=True)) for row in rows]
    for row in table:
        row["reason"] = "wrong label" if row["class_name"] else "missing label"
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


def test_pictures_of_doubted_labels_are_shown_whatever_the_sample(
    hostile: Callable[..., Path], hostile_shards: Path, tmp_path: Path
) -> None:
    folder = hostile()
    first, second = (hostile_shards / f"shard-{number}.tar" for number in range(2))
    listed = write_suspects(
        tmp_path / "suspects.parquet",
        ("two-1", second, "class 1", BAD_NAME, 0.9),
        ("elsewhere", tmp_path / "no.tar", "class 1", "class 2", 0.8),
        ("one-4", first, None, "class 3", 0.7),
        ("two-1", second, None, "class 5", 0.6),
        ("two-2", second, "class 1", None, 0.5),
    )
    suspects = read_suspects(listed)
    keys = {"two-0", "two-1", "two-2", *(f"one-{number}" for number in range(5))}
    page = render_page(collect(str(folder), sample=100, suspects=suspects))
    assert "First stand 3 of 4 pictures" in page
    assert BAD_NAME not in page
    doubts = {one["key"]: one["doubts"] for one in page_data(page)["items"]}
    assert keys <= set(doubts)
    assert doubts["two-1"] == [
        {
            **{"reason": "wrong label", "class_name": "class 1", "likelier": BAD_NAME},
            **{"doubt": 0.9, "rank": 1},
        },
        {
            **{"reason": "missing label", "class_name": None, "likelier": "class 5"},
            **{"doubt": 0.6, "rank": 4},
        },
    ]
    assert [key for key in sorted(doubts) if doubts[key]] == ["one-4", "two-1", "two-2"]
    # The worst of them, and of no more shards than are asked for.
    for sample, most_shards, shown in ((1, 9, {"two-1"}), (2, 1, {"two-1", "two-2"})):
        some = collect(str(folder), sample, most_shards=most_shards, suspects=suspects)
        assert some.suspected == len(shown)
        assert shown <= {item.row["key"] for item in some.items}
    assert all(item.thumbnail for item in some.items if item.row["key"] in shown)
    # Without any, the page has no such order.
    assert 'value="doubt"' not in render_page(collect(str(folder), sample=3))


def overlap(one: dict, two: dict) -> float:
    """The IoU of two boxes, 0 where their classes differ."""
    sides = [
        min(one[f"{axis}_max"], two[f"{axis}_max"]) - max(one[f"{axis}_min"], two[f"{axis}_min"])
        for axis in "xy"
    ]
    if min(sides) <= 0 or one["class_name"] != two["class_name"]:
        return 0.0
    areas = ((b["x_max"] - b["x_min"]) * (b["y_max"] - b["y_min"]) for b in (one, two))
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def test_beside_another_output_pictures_have_its_boxes_and_how_much_they_disagree(
    hostile: Callable[..., Path],
) -> None:
    folder, other = hostile(), hostile("boxes.threshold=0.8", "cam.top_k=2")
    theirs = {row["key"]: row["objects"] for row in all_rows(other)}
    page = render_page(collect(str(folder), sample=100, beside=str(other)))
    items = {item["key"]: item for item in page_data(page)["items"]}
    for row in all_rows(folder):
        ours, other_boxes = row["objects"], theirs[row["key"]]
        best = [
            max((overlap(one, two) for two in against), default=0.0)
            for some, against in ((ours, other_boxes), (other_boxes, ours))
            for one in some
        ]
        expected = 1 - np.mean(best) if best else 0
        item = items[row["key"]]
        assert item["disagreement"] == pytest.approx(expected, abs=1e-4)
        names = [one["class_name"] for one in other_boxes]
        assert [one["class_name"] for one in item["beside"]] == names
    differences = [item["disagreement"] for item in items.values()]
    assert max(differences) > 0.3
    assert 'value="disagreement" selected' in page
    # An output is of one mind with itself, and without another there is no such order.
    same = page_data(render_page(collect(str(folder), sample=9, beside=str(folder))))
    assert {item["disagreement"] for item in same["items"]} == {0}
    assert 'value="disagreement"' not in render_page(collect(str(folder), sample=3))


def test_a_thousand_of_the_busiest_pictures_and_maps_stay_below_15_mb(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    noise = [
        np.random.default_rng(seed).integers(0, 256, (375, 500, 3), np.uint8) for seed in range(4)
    ]
    members = {
        f"{seed}.png": cv2.imencode(".png", pixels)[1].tobytes()
        for seed, pixels in enumerate(noise)
    }
    write_tar(tmp_path / "shard.tar", members)
    config = make_config(
        f"input.shards=[{tmp_path}/*.tar]",
        "cam.classes=predicted",
        "cam.top_k=10",
        "output.store_maps=true",
    )
    gallery = collect(run(config, Console(file=io.StringIO())).folder, sample=9)
    page = len(render_page(gallery))
    assert sum(len(item.row["maps"]) for item in gallery.items) == 40
    gallery.items.clear()
    assert (page - len(render_page(gallery))) / 4 < 15_000


@pytest.mark.parametrize(
    ("count", "short"),
    [
        *((0, "0"), (999, "999"), (1000, "1.0k"), (1999, "1.9k"), (10_000, "10k")),
        *((999_999, "999k"), (1_250_000, "1.2M"), (100_000_000, "100M"), (10**9, "1.0G")),
    ],
)
def test_a_count_on_a_bar_has_four_characters(count: int, short: str) -> None:
    assert short_count(count) == short


def test_suspects_of_other_pictures_are_refused(
    hostile: Callable[..., Path], hostile_shards: Path, tmp_path: Path
) -> None:
    def refused(path: Path) -> str:
        to = ["--to", str(tmp_path / "look")]
        result = CliRunner().invoke(app, ["gallery", str(folder), *to, "--suspects", str(path)])
        assert result.exit_code == 1
        assert isinstance(result.exception, RequestError)
        return str(result.exception)

    folder = hostile()
    other = write_suspects(
        tmp_path / "other.parquet",
        ("one-9", hostile_shards / "shard-0.tar", "class 1", None, 0.9),
    )
    assert "the output has none of its pictures, such as one-9 of " in refused(other)
    assert "no.parquet cannot be read" in refused(tmp_path / "no.parquet")
    (published, *_) = folder.glob("*.parquet")
    assert "has no column reason; give the suspects.parquet" in refused(published)


def test_pictures_that_were_picked_are_shown_with_the_reasons(
    hostile: Callable[..., Path], hostile_shards: Path, tmp_path: Path
) -> None:
    picked = [
        {"shard": str(hostile_shards / "shard-0.tar"), "key": "one-3", "reason": "new", "rank": 2},
        {"shard": str(hostile_shards / "shard-1.tar"), "key": "two-1", "reason": "odd", "rank": 1},
    ]
    pq.write_table(pa.Table.from_pylist(picked), tmp_path / "pick.parquet")
    to, pick = ["--to", str(tmp_path / "look")], ["--pick", str(tmp_path / "pick.parquet")]
    command = ["gallery", str(hostile()), *to, *pick, "--sample", "1", "--most-shards", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "look" / "gallery.html").read_text()
    assert "First stand 1 of 2 pictures that were picked" in page
    doubts = {one["key"]: one["doubts"] for one in page_data(page)["items"] if one["doubts"]}
    # The first of them by rank, not by its place in the file; the other only if it was drawn.
    reasons = {key: one["reason"] for key, (one,) in doubts.items()}
    assert reasons.pop("two-1") == "odd"
    assert reasons in ({}, {"one-3": "new"})
    result = CliRunner().invoke(app, [*command, "--suspects", str(tmp_path / "pick.parquet")])
    assert isinstance(result.exception, RequestError)
    assert "give one of them" in str(result.exception)


def test_a_fingerprint_of_the_content_says_nothing_of_a_change(
    hostile: Callable[..., Path], hostile_shards: Path
) -> None:
    folder = hostile("input.fingerprint=content")
    gallery = collect(str(folder), sample=100)
    assert all(
        file.shard.fingerprint.startswith("sha256=") for file in open_recipe(str(folder)).files
    )
    assert gallery.changed_shards == []
    with (hostile_shards / "shard-0.tar").open("ab") as shard:
        shard.write(bytes(512))
    gallery = collect(str(folder), sample=100)
    assert gallery.changed_shards == [str(hostile_shards / "shard-0.tar")]


def test_a_sample_that_a_raised_bound_let_in_is_shown(
    hostile: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In place of a gigabyte, what is read without a bound of its own stops at 300 bytes.
    read = functools.partial(pictures.read_samples, max_sample_bytes=300)
    monkeypatch.setattr(pictures, "read_samples", read)
    gallery = collect(str(hostile()), sample=100)
    assert sum(item.thumbnail != "" for item in gallery.items) == 9


def files(*rows: int) -> list[PublishedFile]:
    return [
        PublishedFile(f"file-{at}", Shard(f"shard-{at}.tar", 1, ""), count, "", {}, None, None)
        for at, count in enumerate(rows)
    ]


def test_a_sample_is_the_same_in_any_order_and_grows_without_forgetting() -> None:
    shards = files(50, 70, 1, 0, 30)
    ten = choose_rows(shards, 10, seed=3)
    twenty = choose_rows(shards[::-1], 20, seed=3)
    assert sum(map(len, ten.values())) == 10
    assert sum(map(len, twenty.values())) == 20
    assert all(set(places) <= set(twenty[uri]) for uri, places in ten.items())
    assert choose_rows(shards, 10, seed=4) != ten
    assert choose_rows(shards, 1000, seed=3) == {
        file.uri: list(range(file.rows)) for file in shards if file.rows
    }


def test_rows_and_shards_are_drawn_evenly() -> None:
    hits = np.zeros(40)
    for seed in range(500):
        (places,) = choose_rows(files(40), 10, seed).values()
        hits[places] += 1
    # Binomial: 500 draws at 1/4 have a standard deviation of 9.7.
    assert np.abs(hits - 125).max() < 5 * 9.7
    chosen = [choose_shards(files(100, 300), 1, seed)[0].rows for seed in range(500)]
    assert abs(chosen.count(300) - 375) < 5 * 9.7
    assert len({file.uri for file in choose_shards(files(5, 5, 5, 0), 3, 0)}) == 3


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(1, 50), st.integers(0, 9))
def test_the_first_rows_are_those_with_the_smallest_turns(
    rows: list[int], count: int, seed: int
) -> None:
    every = [
        (turn, file.uri, place)
        for file in files(*rows)
        for place, turn in enumerate(row_turns(seed, file.shard.uri, file.rows).tolist())
    ]
    expected = {(uri, place) for _, uri, place in sorted(every)[:count]}
    chosen = choose_rows(files(*rows), count, seed)
    assert {(uri, at) for uri, places in chosen.items() for at in places} == expected
    assert all(places == sorted(places) for places in chosen.values())


def without_manifests(folder: Path) -> Path:
    """As an older cambox left it: what lies in the folder is what is read."""
    shutil.rmtree(folder.parent / "_runs")
    return folder


def test_single_rows_are_read_across_row_groups(hostile: Callable[..., Path]) -> None:
    folder = without_manifests(hostile("output.store_maps=true"))
    path = sorted(folder.glob("*.parquet"))[0]
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=2)
    rows = list(open_recipe(str(folder)).files[0].rows_at([5, 0, 3]))
    of_nobody = [row | {"reviewed": False} for row in table.take([0, 3, 5]).to_pylist()]
    assert rows == of_nobody


@pytest.fixture(scope="module")
def filters() -> Callable[[list[dict], dict], list[int]]:
    """The page's own choice of what it shows, run by a JavaScript engine without a page."""
    context = quickjs.Context()
    context.eval(FILTERS.read_text().replace("const Filters =", "var Filters ="))
    call = context.eval(
        "(items, query) => JSON.stringify(Filters.ordered(JSON.parse(items), JSON.parse(query)))"
    )
    return lambda items, query: json.loads(call(json.dumps(items), json.dumps(query)))


def box(class_id: int, score: float, side: float) -> dict:
    corners = [0.0, 0.0, side, side]
    return {"class_id": class_id, "box_score": score, "class_score": 1 - score, "corners": corners}


def item(
    key: str,
    *boxes: dict,
    status: str = "ok",
    labels: tuple[int, ...] = (),
    doubts: tuple[float, ...] = (),
) -> dict:
    return {
        "key": key,
        "status": status,
        "labels": labels,
        "boxes": boxes,
        "maps": [{"class_id": label} for label in labels],
        "doubts": [{"rank": round(100 * (1 - doubt))} for doubt in doubts],
    }


ITEMS = [
    item("Apple", box(1, 0.9, 0.5) | {"verdict": "accept"}, box(2, 0.2, 0.1), labels=(1, 2)),
    item("bread", box(1, 0.5, 1.0) | {"verdict": "reject"}, doubts=(0.2, 0.4))
    | {"disagreement": 1},
    item("cheese", labels=(2,), doubts=(0.6,)),
    item("torn", status="unreadable"),
    item("date", box(2, 0.7, 0.3)),
]
ANY = {
    "text": "",
    "class": None,
    "status": "",
    "boxes": "",
    "score": [0, 1],
    "area": [0, 1],
    "sort": "place",
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"text": "ea"}, [1]),
        ({"text": "appl"}, [0]),
        ({"status": "unreadable"}, [3]),
        ({"class": 1}, [0, 1]),
        ({"class": 2}, [0, 2, 4]),
        ({"class": 2, "boxes": "with"}, [0, 4]),
        ({"class": 2, "boxes": "without"}, [2]),
        ({"boxes": "without"}, [2, 3]),
        ({"boxes": "one"}, [1, 4]),
        ({"boxes": "several"}, [0]),
        ({"boxes": "one", "class": 2}, [0, 4]),
        ({"score": [0.6, 1]}, [0, 4]),
        ({"class": 1, "score": [0.6, 1]}, [0]),
        ({"area": [0, 0.02]}, [0]),
        ({"area": [0.9, 1], "boxes": "without"}, [0, 2, 3, 4]),
        ({"sort": "low"}, [0, 1, 4, 2, 3]),
        ({"sort": "high"}, [0, 4, 1, 2, 3]),
        ({"sort": "low", "class": 1}, [1, 0]),
        ({"sort": "class-low", "boxes": "with"}, [0, 4, 1]),
        ({"sort": "small", "boxes": "with"}, [0, 4, 1]),
        ({"sort": "large", "boxes": "with"}, [1, 0, 4]),
        ({"sort": "many"}, [0, 1, 4, 2, 3]),
        ({"sort": "doubt"}, [2, 1, 0, 3, 4]),
        ({"sort": "class"}, [0, 1, 4, 2, 3]),
        ({"sort": "disagreement"}, [1, 0, 2, 3, 4]),
        ({"decided": "open"}, [0, 2, 4]),
        ({"decided": "open", "class": 1}, []),
        ({"decided": "done"}, [0, 1]),
        ({"decided": "accept", "class": 2}, []),
        ({"decided": "reject"}, [1]),
        ({"sort": "made up"}, [0, 1, 2, 3, 4]),
    ],
)
def test_the_page_shows_what_is_asked_for(
    filters: Callable[[list[dict], dict], list[int]], query: dict, expected: list[int]
) -> None:
    assert filters(ITEMS, ANY | query) == expected


def test_the_command_writes_the_page_and_a_contact_sheet(
    hostile: Callable[..., Path], tmp_path: Path
) -> None:
    folder = hostile("output.store_maps=true")
    result = CliRunner().invoke(app, ["gallery", str(folder), "--to", str(tmp_path / "look")])
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "look" / "gallery.html") in result.output
    sheet = cv2.imread(str(tmp_path / "look" / "sheet.png"))
    assert sheet.shape[1] > 3 * 500
    shutil.rmtree(tmp_path / "hostile")
    result = CliRunner().invoke(app, ["gallery", str(folder), "--to", str(tmp_path / "look")])
    assert result.exit_code == 0
    assert not (tmp_path / "look" / "sheet.png").exists(), "a sheet of other pictures stays behind"


def test_an_output_that_is_not_there_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        collect(str(tmp_path / "nowhere"))


def test_a_file_that_cannot_be_counted_is_named(hostile: Callable[..., Path]) -> None:
    folder = hostile()
    path = sorted(folder.glob("*.parquet"))[0]
    other = sorted(hostile("boxes.threshold=0.5").glob("*.parquet"))[0]
    without_manifests(folder)
    (folder / "z.parquet").write_bytes(other.read_bytes())
    with pytest.raises(RequestError, match=r"z\.parquet is of another recipe than"):
        collect(str(folder))
    (folder / "z.parquet").unlink()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RequestError, match=f"{path.name} is damaged .* run cambox annotate again"):
        collect(str(folder))


def test_looking_at_an_output_loads_nothing_of_a_model(
    hostile: Callable[..., Path], tmp_path: Path
) -> None:
    folder = str(hostile("output.store_maps=true"))
    program = f"""
import sys
from cambox.cli import app
for arguments in (["gallery", {folder!r}], ["diff", {folder!r}, {folder!r}]):
    app([*arguments, "--to", {str(tmp_path / "look")!r}], standalone_mode=False)
print({{"torch", "torchvision", "timm", "numba", "ray"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nset()\n")
