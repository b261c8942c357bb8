"""True boxes from CSV and COCO JSON, and the one-line errors of files that are neither."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

from cambox.errors import RequestError
from cambox.review.truth import Truth, read_truth, require_truth

NAMES = ["tench", "crane", "shark", "crane"]


def read(tmp_path: Path, text: str, name: str = "truth.csv") -> Truth:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_truth(str(path), NAMES)


def as_lists(truth: Truth) -> dict[str, tuple[list[list[float]], list[int]]]:
    return {
        name: (boxes.corners.tolist(), boxes.class_id.tolist())
        for name, boxes in truth.images.items()
    }


def test_csv_with_and_without_classes(tmp_path: Path) -> None:
    plain = "\ufeffimage,x_min,y_min,x_max,y_max\na.jpg,1,2,3.5,4\nb/c,0,0,9,9\na.jpg,5,5,6,6\n"
    truth = read(tmp_path, plain)
    assert as_lists(truth) == {
        "a.jpg": ([[1, 2, 3.5, 4], [5, 5, 6, 6]], [-1, -1]),
        "b/c": ([[0, 0, 9, 9]], [-1]),
    }
    assert not truth.says_classes
    # Columns in another order, and more of them.
    classes = "class_index, note, x_min, x_max, y_min, y_max, image\n2, x, 1, 3, 2, 4, a\n"
    truth = read(tmp_path, classes)
    assert as_lists(truth) == {"a": ([[1, 2, 3, 4]], [2])}
    assert truth.says_classes


@pytest.mark.parametrize(
    ("image", "keys"),
    [
        ("a.jpg", ["a", "a.jpg", "a_jpg"]),
        ("a", ["a"]),
        ("./x/y.z.jpg", ["x/y.z", "x/y_z"]),
        ("v1.0/a.jpg", ["v1_0/a", "v1.0/a"]),
    ],
)
def test_an_image_is_a_sample_s_key_with_or_without_its_extension(
    tmp_path: Path, image: str, keys: list[str]
) -> None:
    truth = read(tmp_path, f"image,x_min,y_min,x_max,y_max\n{image},0,0,9,9\n")
    for key in keys:
        assert truth.name_of(key) == image
        assert key in truth.keys
    assert truth.name_of("b") is None


def test_two_names_of_one_sample_are_an_error(tmp_path: Path) -> None:
    truth = read(tmp_path, "image,x_min,y_min,x_max,y_max\na.jpg,0,0,9,9\na.png,0,0,9,9\n")
    assert truth.name_of("a.png") == "a.png"
    with pytest.raises(RequestError, match=r"'a.jpg' and 'a.png' both stand for the sample 'a'"):
        truth.name_of("a")


def coco(**changes: object) -> str:
    document: dict[str, object] = {
        "info": {"year": 2024},
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 50, "height": 40},
            {"id": 9, "file_name": "empty.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 20.5], "area": 205},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 18, "bbox": [0, 0, 50, 40], "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 90, "bbox": [0, 0, 50, 40]},
        ],
        "categories": [
            {"id": 18, "name": "shark"},
            {"id": 1, "name": "crane"},
            {"id": 90, "name": "toothbrush"},
        ],
    }
    return json.dumps(document | changes)


def test_coco_boxes_have_a_width_and_categories_go_by_name(tmp_path: Path) -> None:
    truth = read(tmp_path, coco(), "truth.json")
    # Category 1 is "crane", as classes 1 and 3 are: its id decides.
    assert as_lists(truth) == {
        "a.jpg": ([[1, 2, 11, 22.5], [0, 0, 5, 5]], [2, 1]),
        "empty.jpg": ([], []),
    }
    assert truth.images["empty.jpg"].corners.shape == (0, 4)
    assert sorted(truth.remarks) == [
        "1 crowds are left out",
        "1 true boxes of categories that are no class of the output are left out",
        "categories that are no class of the output: toothbrush",
    ]


@pytest.mark.parametrize("names", [None, ["0", "1", "2", "3"]])
def test_coco_category_ids_are_classes_where_either_side_has_no_names(
    tmp_path: Path, names: list[str] | None
) -> None:
    path = tmp_path / "truth.json"
    numbered = [{"id": number, "name": str(number)} for number in (1, 18, 90)]
    path.write_text(coco(**({} if names else {"categories": numbered})))
    truth = read_truth(str(path), names or NAMES)
    boxes, classes = as_lists(truth)["a.jpg"]
    assert (boxes, classes) == ([[0, 0, 5, 5]], [1])
    assert "category ids are class indices" in truth.remarks[0]


def test_coco_names_match_without_regard_to_case_unless_a_class_is_called_just_so(
    tmp_path: Path,
) -> None:
    path = tmp_path / "truth.json"
    categories = [{"id": 18, "name": "Shark"}, {"id": 1, "name": "PERSON "}]
    path.write_text(coco(categories=categories))
    truth = read_truth(str(path), ["Person", "shark", "Shark", "SHARK"])
    assert as_lists(truth)["a.jpg"] == ([[1, 2, 11, 22.5], [0, 0, 5, 5]], [2, 0])
    assert "categories matched without regard to case: PERSON " in truth.remarks
    with pytest.raises(RequestError, match="'Shark', and so are the classes 0, 1; give it"):
        read_truth(str(path), ["shark", "SHARK", "person"])


def test_boxes_without_a_size_are_left_out_and_counted(tmp_path: Path) -> None:
    """COCO's train2017 has such boxes."""
    flat = [
        {"image_id": 7, "category_id": 18, "bbox": [1, 2, 0, 20]},
        {"image_id": 9, "category_id": 18, "bbox": [4.5, 2, 7, 0.0]},
        {"image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 20]},
    ]
    remark = "2 true boxes have no width or no height and are left out"
    truth = read(tmp_path, coco(annotations=flat), "truth.json")
    assert as_lists(truth) == {"a.jpg": ([[1, 2, 11, 22]], [2]), "empty.jpg": ([], [])}
    assert truth.remarks == (remark,)

    truth = read(tmp_path, f"{COLUMNS}\na,1,2,1,22\na,1,2,11,22\nempty,4,2,9,2\n")
    assert as_lists(truth) == {"a": ([[1, 2, 11, 22]], [-1]), "empty": ([], [])}
    assert truth.remarks == (remark,)


def test_a_truth_is_checked_before_its_classes_are_known(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text(coco(categories=[{"id": 18, "name": "person"}]))
    assert len(read_truth(str(path), None).images["a.jpg"]) == 3
    path.write_text("{")
    with pytest.raises(RequestError, match="no JSON"):
        read_truth(str(path), None)


COLUMNS = "image,x_min,y_min,x_max,y_max"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'image'"),
        ("image,x,y,w,h\na,1,2,3,4\n", "no column 'x_min'"),
        (f"{COLUMNS}\n", "holds no box"),
        (f"{COLUMNS}\na,1,2,3,4\nb,1,2,x,4\n", "line 3: .* not four numbers"),
        (f"{COLUMNS}\na,3,2,1,4\n", "line 2: the box 3, 2, 1, 4 is none"),
        (f"{COLUMNS}\na,1,2,1,4\n", "holds no box; 1 true boxes have no width or no height"),
        (f"{COLUMNS}\na,nan,2,1,4\n", "line 2: the box"),
        (f"{COLUMNS}\na,1,2\n", "line 2: .* not four numbers"),
        (f"{COLUMNS}\n,1,2,3,4\n", "line 2: no image"),
        (f"{COLUMNS}\na,0.1,0.2,0.5,1\n", "shares of the image"),
        (f"{COLUMNS},class_index\na,1,2,3,4,\n", "line 2: '' is no class index"),
        (f"{COLUMNS},class_index\na,1,2,3,4,4\n", "no class 4; .* has 4"),
    ],
)
def test_a_wrong_csv_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--truth: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "not COCO's format"),
        (coco(annotations=[{"image_id": 7, "category_id": 1}]), "annotations.0.bbox"),
        (coco(images=[]), "image_id 7, which is none"),
        (
            coco(annotations=[{"image_id": 7, "category_id": 1, "bbox": [1, 2, -1, 4]}]),
            "a.jpg: the box 1, 2, 0, 6 is none",
        ),
        (
            coco(categories=[{"id": 18, "name": "person"}, {"id": 1, "name": "bicycle"}]),
            r"categories \(person, bicycle\) has the name of a class of the output \(tench, crane",
        ),
        (coco(categories=[{"id": 18, "name": "crane"}]), "classes 1, 3; give it the id"),
    ],
)
def test_a_wrong_json_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        read(tmp_path, text, "truth.json")
    assert "\n" not in str(error.value)


def test_a_truth_may_be_a_url_and_a_missing_one_is_named(tmp_path: Path) -> None:
    with fsspec.open("memory://truth/boxes.csv", "w") as file:
        file.write(f"{COLUMNS}\na,1,2,3,4\n")
    truth = read_truth("memory://truth/boxes.csv", NAMES)
    assert np.array_equal(truth.images["a"].corners, [[1, 2, 3, 4]])
    with pytest.raises(RequestError, match=r"gone.csv does not exist; correct the path"):
        read_truth(str(tmp_path / "gone.csv"), NAMES)
    for missing, said in (("gone.csv", "gone.csv does not exist"), ("", "is a folder")):
        with pytest.raises(RequestError, match=said):
            require_truth(str(tmp_path / missing))
    require_truth("memory://truth/boxes.csv")
    with pytest.raises(RequestError, match="not a storage protocol"):
        read_truth("pipe:cat", NAMES)
