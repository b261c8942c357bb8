"""What people exported comes back: as rows of the output, as true boxes, and as counts."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cambox
from cambox.boxes import Boxes
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.export import Format
from cambox.export.export import ExportRequest, export
from cambox.output.publish import publish
from cambox.output.reading import open_recipe
from cambox.output.recheck import recheck
from cambox.output.reviewed import read_reviewed
from cambox.output.rows import table
from cambox.review.corrections.formats import read_review
from cambox.review.corrections.matching import _names
from cambox.review.corrections.tally import outcomes_of
from cambox.review.truth import read_truth
from cambox.sources.samples import ANY_IMAGE
from cambox.sources.shards import find_shards
from makers import CLASS_NAMES, KnownRow, Published, boxes_of, publish_rows

# Classes that no other has the name of.
STRIPED, DOTTED = 0, 2
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Reviewed:
    """An image as its reviewer left it: classes and corners in pixels."""

    row: KnownRow
    boxes: tuple[tuple[str, Corners], ...]


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish_rows(tmp_path)


@pytest.fixture
def call(
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """The command in a folder of its own: its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def carry_out(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cambox", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return carry_out


def row_of(published: Published, shard: int, key: str) -> KnownRow:
    uri = str(published.shards[shard])
    return next(row for row in published.rows if (row.shard, row.key) == (uri, key))


def corrected(published: Published) -> list[Reviewed]:
    """A row with its first box alone, one with a box of another class, one that gets its first."""
    first, second = row_of(published, 0, "turned"), row_of(published, 1, "ключ")
    one, other = first.objects[0], second.objects[0]
    return [
        Reviewed(first, (("dotted", tuple(one[4:8])),)),
        Reviewed(second, (("striped", tuple(other[4:8])), ("plain <&>", (1.0, 2.0, 9.0, 8.0)))),
        Reviewed(row_of(published, 0, "nothing"), (("striped", (5.0, 6.0, 25.0, 36.0)),)),
        Reviewed(row_of(published, 2, "last"), ()),
    ]


def label_studio(reviewed: list[Reviewed]) -> str:
    """As its JSON export has them, with predictions and annotations that do not count."""

    def result(name: str, corners: Corners, row: KnownRow) -> dict[str, Any]:
        width, height = float(row.width or 0), float(row.height or 0)
        x_min, y_min, x_max, y_max = corners
        return {
            "type": "rectanglelabels",
            "original_width": row.width,
            "original_height": row.height,
            "value": {
                "x": x_min / width * 100,
                "y": y_min / height * 100,
                "width": (x_max - x_min) / width * 100,
                "height": (y_max - y_min) / height * 100,
                "rotation": 0,
                "rectanglelabels": [name],
            },
        }

    tasks: list[dict[str, Any]] = []
    for number, one in enumerate(reviewed):
        guess = result("dotted", (0.0, 0.0, 9.0, 9.0), one.row)
        results = [result(name, corners, one.row) for name, corners in one.boxes]
        tasks.append(
            {
                "id": number,
                "data": {"image": "a.jpg", "shard": one.row.shard, "key": one.row.key},
                "annotations": [
                    {"result": [guess], "was_cancelled": True, "updated_at": "2026-11-03"},
                    {"result": results, "was_cancelled": False, "updated_at": "2026-11-02"},
                    {"result": [guess], "was_cancelled": False, "updated_at": "2026-11-01"},
                ],
                "predictions": [{"result": [guess]}],
            }
        )
    tasks.append({"id": 99, "data": {"image": "b.jpg"}, "annotations": [], "predictions": []})
    return json.dumps(tasks)


def cvat(reviewed: list[Reviewed]) -> str:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, one in enumerate(reviewed):
        size = {"width": str(one.row.width), "height": str(one.row.height)}
        name = f"photos/{one.row.key}.jpg"
        image = ElementTree.SubElement(root, "image", id=str(number), name=name, **size)
        for label, corners in one.boxes:
            sides = zip(("xtl", "ytl", "xbr", "ybr"), map(str, corners), strict=True)
            box = ElementTree.SubElement(image, "box", {"label": label, **dict(sides)})
            ElementTree.SubElement(box, "attribute", name="score").text = "0.5"
    return ElementTree.tostring(root, encoding="unicode")


def coco(reviewed: list[Reviewed]) -> str:
    images, annotations = [], []
    for number, one in enumerate(reviewed):
        size = {"width": one.row.width, "height": one.row.height}
        images.append({"id": number, "file_name": f"{one.row.key}.png", **size})
        for label, (x_min, y_min, x_max, y_max) in one.boxes:
            box = [x_min, y_min, x_max - x_min, y_max - y_min]
            category = CLASS_NAMES.index(label) + 1
            annotations.append({"image_id": number, "category_id": category, "bbox": box})
    categories = [{"id": place, "name": name} for place, name in enumerate(CLASS_NAMES, 1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


WRITERS = {"tasks.json": label_studio, "annotations.xml": cvat, "instances.json": coco}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows_truth_and_counts(
    name: str, published: Published, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    reviewed = corrected(published)
    (tmp_path / name).write_text(WRITERS[name](reviewed), encoding="utf-8")
    code, out, err = call("corrections", name, published.output, "--truth-to", "t.csv", "--json")
    assert code == 0, err

    read = cambox.read(str(published.output)).to_table().to_pylist()
    rows = {row["key"]: row for row in read if row["reviewed"]}
    kept = {row.key: row for row in read_reviewed(str(published.output))}
    truth = read_truth("t.csv", CLASS_NAMES)
    assert rows.keys() == kept.keys() == truth.images.keys() == {one.row.key for one in reviewed}
    for one in reviewed:
        objects = rows[one.row.key]["objects"]
        assert [box["class_name"] for box in objects] == [label for label, _ in one.boxes]
        corners = [[box[side] for side in ("x_min", "y_min", "x_max", "y_max")] for box in objects]
        expected = np.array([corners for _, corners in one.boxes]).reshape(-1, 4)
        np.testing.assert_allclose(np.array(corners).reshape(-1, 4), expected, atol=1e-3)
        assert all(box["box_score"] == box["class_score"] == 1 for box in objects)
        assert all((box["rank"], box["component"]) == (0, 0) for box in objects)
        np.testing.assert_allclose(truth.images[one.row.key].corners, expected, atol=1e-3)
        # Of the file that lies in the tar.
        with tarfile.open(one.row.shard) as archive:
            (member,) = (
                member
                for member in archive.getmembers()
                if member.name.startswith(f"{one.row.key}.") and not member.name.endswith("cls")
            )
            data = archive.extractfile(member)
            assert data is not None
            assert kept[one.row.key].sha256 == hashlib.sha256(data.read()).hexdigest()

    report = json.loads(out)
    assert report == json.loads(Path("corrections/corrections.json").read_text())
    before = sum(len(one.row.objects) for one in reviewed)
    assert report["boxes"]["pseudo_boxes"] == before
    assert report["boxes"]["accepted"] + report["boxes"]["rejected"] == before
    assert report["boxes"]["added"] >= 2
    assert sum(entry["pseudo_boxes"] for entry in report["by_score"]) == before
    assert not report["not_matched"]


def test_what_an_export_wrote_is_matched_by_the_names_that_it_gave(
    published: Published, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    export(ExportRequest(str(published.output), Format.coco, tmp_path / "coco"))
    document = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    for image in document["images"]:
        # Tools drop what they do not know.
        del image["shard"], image["key"]
    (tmp_path / "back.json").write_text(json.dumps(document))
    code, _, err = call("corrections", "back.json", published.output)
    assert code == 0, err
    kept = {(row.shard, row.key): row for row in read_reviewed(str(published.output))}
    assert kept.keys() == {(row.shard, row.key) for row in published.with_boxes}
    report = json.loads(Path("corrections/corrections.json").read_text())
    boxes = sum(len(row.objects) for row in published.with_boxes)
    assert report["boxes"]["kept"] == report["boxes"]["pseudo_boxes"] == boxes


def judged(row: KnownRow, *verdicts: tuple[str | None, str | None]) -> dict[str, Any]:
    boxes = [
        {
            **dict(zip(("x_min", "y_min", "x_max", "y_max"), box[4:8], strict=True)),
            "class_id": box.class_id,
            "class_name": box.class_name,
            "box_score": box.box_score,
            "verdict": verdict,
            "to_class": to_class,
        }
        for box, (verdict, to_class) in zip(row.objects, verdicts, strict=True)
    ]
    size = {"width": row.width, "height": row.height}
    return {"shard": row.shard, "key": row.key, **size, "boxes": boxes}


def test_a_review_of_the_gallery_keeps_what_nobody_judged(
    published: Published, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    rows = [row for row in published.with_boxes if len(row.objects) >= 2][:3]
    whole, part, changed = rows
    nothing = row_of(published, 0, "nothing")
    accepted: tuple[str | None, str | None] = ("accept", None)
    document = {
        "format": "cambox-review-1",
        "recipe": published.recipe.digest,
        "made_at": "2026-11-27T13:00:00Z",
        "rows": [
            judged(whole, ("reject", None), *[accepted] * (len(whole.objects) - 1)),
            judged(part, accepted, *[(None, None)] * (len(part.objects) - 1)),
            judged(changed, ("wrong_class", "striped"), *[accepted] * (len(changed.objects) - 1)),
            {**judged(nothing), "verdict": "accept"},
        ],
    }
    (tmp_path / "review.json").write_text(json.dumps(document))
    code, out, err = call("corrections", "review.json", published.output, "--truth-to", "t.json")
    assert code == 0, err
    assert "1 have boxes that nobody judged" in out
    read = {
        (row["shard"], row["key"]): row
        for row in cambox.read(str(published.output)).to_table().to_pylist()
    }
    of_whole, of_part, of_changed = (read[row.shard, row.key] for row in rows)
    assert [box["x_min"] for box in of_whole["objects"]] == pytest.approx(
        [box.x_min for box in whole.objects[1:]]
    )
    assert of_part["reviewed"] is False
    scores = {round(box["box_score"], 5) for box in of_part["objects"]}
    assert scores == {
        1.0,
        *(round(float(np.float32(box.box_score)), 5) for box in part.objects[1:]),
    }
    assert of_changed["objects"][0]["class_name"] == "striped"
    assert read[nothing.shard, nothing.key]["reviewed"] is True
    # Only what is settled is true.
    truth = read_truth("t.json", CLASS_NAMES)
    assert set(truth.images) == {whole.key, changed.key, nothing.key}
    report = json.loads(Path("corrections/corrections.json").read_text())["boxes"]
    judged_boxes = len(whole.objects) + 1 + len(changed.objects)
    assert (report["removed"], report["added"]) == (1, 0)
    assert report["pseudo_boxes"] == judged_boxes


def test_what_is_no_row_is_named_and_the_rest_is_taken(
    published: Published, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    document = json.loads(coco(corrected(published)))
    document["images"] += [
        {"id": 50, "file_name": "elsewhere.jpg"},
        {"id": 51, "file_name": "dog/1.jpg"},
        {"id": 52, "file_name": "con.jpg", "width": 32, "height": 64},
        {"id": 53, "file_name": "torn.jpg"},
    ]
    document["categories"].append({"id": 77, "name": "unicorn"})
    unicorn = {"image_id": 3, "category_id": 77, "bbox": [1, 1, 5, 5]}
    document["annotations"].append(unicorn)
    (tmp_path / "back.json").write_text(json.dumps(document))
    code, out, _ = call("corrections", "back.json", published.output)
    assert code == 1
    assert "4 images not taken" in out
    assert "elsewhere.jpg): no sample of the output" in out
    assert "dog/1.jpg): 2 samples may be meant" in out
    assert "32 x 64, and not 32 x 32" in out
    assert "its row has no picture" in out
    assert "boxes of classes that the recipe does not have: unicorn (1)" in out
    assert len(read_reviewed(str(published.output))) == 4


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;">]>
<annotations><image id="0" name="&c;" width="1" height="1"/></annotations>"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is neither JSON nor XML"),
        ("{}", "is no review that is read; give Label Studio's JSON"),
        ("[]", "is no list of Label Studio's tasks"),
        ('[{"image": "a.jpg", "label": []}]', "and not as JSON-MIN"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "is a list of COCO results"),
        ("PK\3\4", "is a zip archive; unpack it"),
        (BOMB, "has a document type"),
        ("<svg/>", "begins with <svg>"),
        ("<annotations><image", "is no XML"),
        ("<annotations><track/></annotations>", "has tracks of a video"),
        (
            '<annotations><image id="0" name="a" width="9" height="9"><box label="a" xtl="1" '
            'ytl="1" xbr="5" ybr="5" rotation="30"/></image></annotations>',
            "a box is rotated by 30 degrees",
        ),
        ('{"format": "cambox-review-1", "rows": [{}]}', "rows.0.shard: Field required"),
        ('{"images": [], "annotations": [], "categories": 3}', "is not COCO's format: categories"),
        ('{"images": [], "annotations": [], "categories": []}', "none of its 0 reviewed images"),
    ],
)
def test_a_wrong_file_is_one_line(
    text: str,
    why: str,
    published: Published,
    tmp_path: Path,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    (tmp_path / "review").write_text(text)
    code, _, err = call("corrections", "review", published.output)
    (line,) = err.splitlines()
    assert (code, why in line) == (2, True), line
    assert not read_reviewed(str(published.output))


def repack(published: Published, change: Mapping[str, bytes]) -> str:
    """Write the first shard anew with other bytes, and publish its rows again."""
    path = published.shards[0]
    with tarfile.open(path) as archive:
        members = []
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            members.append((member, file.read()))
    with tarfile.open(path, "w") as archive:
        for member, data in reversed(members):
            new = change.get(member.name, data)
            member.size, member.mtime = len(new), 7
            archive.addfile(member, io.BytesIO(new))
    (shard,) = find_shards([str(path)])
    rows = [row for row in published.rows if row.shard == shard.uri]
    made = table(rows, boxes_of(rows), CLASS_NAMES, with_maps=False)
    publish(made, shard, published.recipe, OutputSettings(uri=str(published.output)))
    return shard.fingerprint


def test_a_shard_that_is_packed_anew_keeps_its_corrections_and_a_changed_picture_does_not(
    published: Published, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "back.json").write_text(coco(corrected(published)))
    assert call("corrections", "back.json", published.output)[0] == 0
    old = {row.key: row for row in read_reviewed(str(published.output))}
    new_state = repack(published, {"nothing.jpg": b"another picture"})
    assert not open_recipe(str(published.output)).files[0].reviews

    code, out, err = call("corrections", "--check", published.output)
    assert (code, err) == (0, "")
    assert "1 stay, 1 of pictures that have changed since" in out
    kept = {row.key: row for row in read_reviewed(str(published.output))}
    assert kept["turned"].same_in == (*old["turned"].same_in, new_state)
    assert kept["nothing"].other_in == (new_state,)
    (reviews,) = (file.reviews for file in open_recipe(str(published.output)).files[:1])
    assert reviews is not None
    assert list(reviews.objects) == ["turned"]
    # All is known by now, so no shard is read.
    published.shards[0].unlink()
    assert recheck(str(published.folder), ANY_IMAGE).lines() == []


@given(
    st.lists(st.tuples(*[st.integers(0, 8)] * 4, st.integers(0, 1)), max_size=5),
    st.lists(st.tuples(*[st.integers(0, 8)] * 4, st.integers(0, 1)), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_every_box_has_one_outcome(first: list[Any], second: list[Any]) -> None:
    def boxes(listed: list[Any]) -> Boxes:
        corners = [(x, y, x + 1 + w, y + 1 + h) for x, y, w, h, _ in listed]
        return Boxes.of(corners, class_id=[one[4] for one in listed])

    outcomes, added = outcomes_of(boxes(first), boxes(second))
    assert len(outcomes) == len(first)
    # Each box after the review is one of before, or new.
    assert len(second) == len(added) + sum(what != "removed" for what in outcomes)
    same, none = outcomes_of(boxes(first), boxes(first))
    assert set(same) <= {"kept"}
    assert not none


def test_outcomes_by_hand() -> None:
    pseudo = Boxes.of(
        [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]], class_id=[0, 0, 0, 1]
    )
    left = Boxes.of(
        [[0, 0, 10, 10.5], [20, 0, 33, 10], [60, 0, 70, 10], [80, 0, 90, 10]], class_id=0
    )
    assert outcomes_of(pseudo, left) == (["kept", "moved", "removed", "class_changed"], [3])


def test_the_addresses_of_tools_lead_to_the_names_of_samples() -> None:
    for address, name in {
        "/data/local-files/?d=photos/dog%201.jpg": "photos/dog 1",
        "/data/upload/7/0a1b2c3d-dog.jpg": "dog",
        "s3://bucket/photos/dog.rgb.png": "photos/dog.rgb",
        "https://host/a/dog.jpg?X-Amz-Signature=1": "a/dog",
        "dog": "dog",
    }.items():
        assert name in _names(address), address


def test_label_studio_s_rotated_box_is_refused(tmp_path: Path) -> None:
    value = {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 12, "rectanglelabels": ["a"]}
    result = {"type": "rectanglelabels", "original_width": 9, "original_height": 9, "value": value}
    task = {"id": 4, "data": {"image": "a"}, "annotations": [{"result": [result]}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    with pytest.raises(RequestError, match="task 4: a box is rotated by 12 degrees"):
        read_review(str(tmp_path / "tasks.json"))
