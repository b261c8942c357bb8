"""What people review and judge in: the files as their documents describe them, recomputed plainly.

"Row" is a complaint about other exports, and the number that it has in the project's list of them.
``test_consumers`` has the importers themselves read the same files, where they are installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cambox.cli import main
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.export import Format
from cambox.export.addresses import address_below
from cambox.export.export import export
from cambox.export.request import ExportRequest
from cambox.output.footer import Recipe
from cambox.output.publish import publish
from cambox.output.rows import table
from cambox.sources.chunks import find_chunks
from cambox.training.selection import Selection
from makers import KnownBox, KnownRow, Published, boxes_of, corners_of, publish_rows

NAMES = ("striped", "crane (1)", "dotted", "crane (3)", "plain <&>")
# Of a pixel: corners are written to a thousandth, shares to a millionth of a percent.
CLOSE = 0.002
EMPTY = "nothing"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_rows(tmp_path_factory.mktemp("published"))


@pytest.fixture
def exported(published: Published, tmp_path: Path) -> Callable[..., Path]:
    """The folder of an export, with images without a box unless told."""

    def write(kind: Format, **options: Any) -> Path:
        to = tmp_path / kind
        options.setdefault("selection", Selection(keep_empty=True))
        export(ExportRequest(str(published.output), kind, to, **options))
        return to

    return write


def kept(published: Published) -> list[KnownRow]:
    return [row for row in published.rows if row.status == "ok"]


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def require_boxes(row: KnownRow, corners: Any, names: list[str], scores: Any) -> None:
    """Boxes in pixels, with their classes and scores in their order, are the row's."""
    assert np.abs(np.reshape(corners, (-1, 4)) - corners_of(row)).max(initial=0) < CLOSE
    assert names == [NAMES[item.class_id] for item in row.objects]
    assert np.allclose(scores, [item.box_score for item in row.objects], rtol=0, atol=1e-6)


def test_rows_17_and_18_one_prediction_of_a_task_has_all_boxes_with_their_scores(
    published: Published, exported: Callable[..., Path]
) -> None:
    tasks = load(exported(Format.labelstudio) / "tasks.json")
    assert len(tasks) == len(kept(published))
    for row, task in zip(kept(published), tasks, strict=True):
        assert (task["data"]["shard"], task["data"]["key"]) == (row.shard, row.key)
        (prediction,) = task["predictions"]
        corners = []
        for region in prediction["result"]:
            # Its documents: x, y, width and height are percent of the original size.
            x, y, width, height = (region["value"][name] for name in ("x", "y", "width", "height"))
            assert (region["original_width"], region["original_height"]) == (row.width, row.height)
            across, down = row.width / 100, row.height / 100
            corners.append([x * across, y * down, (x + width) * across, (y + height) * down])
            assert region["type"] == "rectanglelabels"
        names = [region["value"]["rectanglelabels"] for region in prediction["result"]]
        scores = [region["score"] for region in prediction["result"]]
        require_boxes(row, corners, [name for (name,) in names], scores)
    ids = [region["id"] for task in tasks for region in task["predictions"][0]["result"]]
    assert len(set(ids)) == len(ids)


def test_row_19_predictions_are_no_annotations_and_an_image_without_a_box_has_an_empty_one(
    published: Published, exported: Callable[..., Path]
) -> None:
    folder = exported(Format.labelstudio)
    tasks = load(folder / "tasks.json")
    assert all(set(task) == {"data", "predictions"} for task in tasks)
    empty = [task for task in tasks if task["data"]["key"] == EMPTY]
    assert [task["predictions"][0]["result"] for task in empty] == [[]]
    versions = {task["predictions"][0]["model_version"] for task in tasks}
    assert versions == {published.recipe.digest[:16]}
    # The regions name the tags of the config beside them.
    view = ElementTree.parse(folder / "labels.xml").getroot()
    assert [label.get("value") for label in view.iter("Label")] == list(NAMES)
    (boxes,), (image,) = view.findall("RectangleLabels"), view.findall("Image")
    for region in (region for task in tasks for region in task["predictions"][0]["result"]):
        assert region["from_name"] == boxes.get("name")
        assert region["to_name"] == boxes.get("toName") == image.get("name")
    assert image.get("value") == "$image"


def test_row_21_a_task_has_the_score_of_its_least_sure_box_to_be_filtered_by(
    published: Published, exported: Callable[..., Path]
) -> None:
    tasks = load(exported(Format.labelstudio) / "tasks.json")
    for row, task in zip(kept(published), tasks, strict=True):
        least = min((item.box_score for item in row.objects), default=0)
        assert task["predictions"][0]["score"] == pytest.approx(least, abs=1e-6)


def test_row_22_cvat_gets_each_score_as_a_number_that_its_labels_have(
    published: Published, exported: Callable[..., Path]
) -> None:
    folder = exported(Format.cvat)
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    labels = {label.findtext("name"): label for label in root.iterfind("meta/task/labels/label")}
    assert tuple(labels) == NAMES == tuple(label["name"] for label in load(folder / "labels.json"))
    for label, raw in zip(labels.values(), load(folder / "labels.json"), strict=True):
        (attribute,) = raw["attributes"]
        assert label.findtext("attributes/attribute/name") == attribute["name"] == "score"
        assert label.findtext("attributes/attribute/input_type") == attribute["input_type"]
        values = (label.findtext("attributes/attribute/values") or "").split("\n")
        assert values == attribute["values"]
    low, high, step = map(float, values)
    images = root.findall("image")
    for row, image in zip(kept(published), images, strict=True):
        assert published.rows[int(image.attrib["id"])] == row
        assert (image.get("width"), image.get("height")) == (str(row.width), str(row.height))
        boxes = image.findall("box")
        corners = [
            [float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr")] for box in boxes
        ]
        scores = [float(box.findtext("attribute[@name='score']") or "") for box in boxes]
        assert all(low <= score <= high for score in scores)
        assert np.allclose(np.array(scores) / step, np.rint(np.array(scores) / step), atol=1e-6)
        require_boxes(row, corners, [box.attrib["label"] for box in boxes], scores)


def test_fiftyone_gets_shares_and_confidences(
    published: Published, exported: Callable[..., Path]
) -> None:
    folder = exported(Format.fiftyone, with_images=True)
    labels = load(folder / "labels.json")
    assert tuple(labels["classes"]) == NAMES
    found = list(labels["labels"].items())
    for row, (name, boxes) in zip(kept(published), found, strict=True):
        (path,) = (folder / "data").glob(f"{name}.*")
        with Image.open(path) as image:
            assert image.size == (row.width, row.height)
        places = np.reshape([box["bounding_box"] for box in boxes], (-1, 4))
        corners = np.hstack([places[:, :2], places[:, :2] + places[:, 2:]])
        corners *= [row.width, row.height] * 2
        names = [labels["classes"][box["label"]] for box in boxes]
        require_boxes(row, corners, names, [box["confidence"] for box in boxes])


def test_row_25_results_beside_a_dataset_without_annotations(
    published: Published, exported: Callable[..., Path]
) -> None:
    folder = exported(Format.coco_results)
    dataset = COCO(str(folder / "dataset.json"))
    assert dataset.getAnnIds() == []
    results = dataset.loadRes(str(folder / "results.json"))
    for row, image_id in zip(kept(published), dataset.getImgIds(), strict=True):
        assert dataset.imgs[image_id]["key"] == row.key
        found = results.loadAnns(results.getAnnIds(image_id))
        boxes = np.reshape([item["bbox"] for item in found], (-1, 4))
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        names = [dataset.cats[item["category_id"]]["name"] for item in found]
        require_boxes(row, corners, names, [item["score"] for item in found])


def truth_of(rows: list[KnownRow], ids: Mapping[str, int]) -> dict[str, Any]:
    """The boxes of some rows as a person's dataset, with ids of its own."""
    annotations = [
        {
            "image_id": 900 - place,
            "category_id": ids[NAMES[item.class_id]],
            "bbox": [item.x_min, item.y_min, item.x_max - item.x_min, item.y_max - item.y_min],
            "area": (item.x_max - item.x_min) * (item.y_max - item.y_min),
            "iscrowd": 0,
        }
        for place, row in enumerate(rows)
        for item in row.objects
        if NAMES[item.class_id] in ids
    ]
    return {
        "images": [
            {
                "id": 900 - place,
                "file_name": f"{row.key}.jpg",
                "width": row.width,
                "height": row.height,
            }
            for place, row in enumerate(rows)
        ],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


def test_row_25_results_have_the_ids_of_a_given_truth(
    published: Published, exported: Callable[..., Path], tmp_path: Path
) -> None:
    # Names that several samples have, or several classes, would be no truth of this output.
    keys = [row.key for row in published.rows]
    rows = [row for row in published.with_boxes if keys.count(row.key) == 1 and row.key != "con"]
    ids = {"plain <&>": 7, "dotted": 41, "striped": 3}
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(truth_of(rows, ids)))
    folder = exported(Format.coco_results, truth=str(truth))
    assert not (folder / "dataset.json").exists()
    coco = COCO(str(truth))
    results = coco.loadRes(str(folder / "results.json"))
    # Judged against itself by COCO's own evaluation: every box is found, at every IoU.
    evaluation = COCOeval(coco, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    assert precision[precision >= 0].min() == 1
    assert len(results.getAnnIds()) == len(coco.getAnnIds()) > 10
    about = load(folder / "cambox.json")
    assert any("images that the truth does not have" in note for note in about["notes"])

    (tmp_path / "other.json").write_text(json.dumps(truth_of(rows, ids)).replace(".jpg", "-x.jpg"))
    with pytest.raises(RequestError, match="--truth: none of the 10 images is in it"):
        export(
            ExportRequest(
                str(published.output),
                Format.coco_results,
                tmp_path / "other",
                Selection(keep_empty=True),
                truth=str(tmp_path / "other.json"),
            )
        )


def test_rows_23_and_24_coco_has_no_category_0_and_a_polygon_for_every_box(
    published: Published, exported: Callable[..., Path]
) -> None:
    coco = COCO(str(exported(Format.coco) / "annotations.json"))
    assert min(coco.getCatIds()) == 1
    for item in coco.loadAnns(coco.getAnnIds()):
        (polygon,) = item["segmentation"]
        x, y, width, height = item["bbox"]
        points = np.reshape(polygon, (4, 2))
        assert np.allclose(points.min(axis=0), [x, y])
        assert np.allclose(points.max(axis=0), [x + width, y + height], atol=CLOSE)
        # The shoelace formula: four corners in turn, and the area that is written beside them.
        across, down = points.T
        area = abs(across @ np.roll(down, -1) - down @ np.roll(across, -1)) / 2
        assert area == pytest.approx(item["area"], abs=0.01)
        assert item["iscrowd"] == 0
        # pycocotools makes a mask of it, which it cannot of an empty list.
        assert coco.annToMask(item).shape == (
            coco.imgs[item["image_id"]]["height"],
            coco.imgs[item["image_id"]]["width"],
        )


@pytest.mark.parametrize(
    ("root", "address"),
    [
        ("", "{key}.jpg"),
        ("/photos", "/photos/{key}.jpg"),
        ("/photos/", "/photos/{key}.jpg"),
        ("s3://bucket/a b", "s3://bucket/a b/{key}.jpg"),
        ("/photos/{key}.png", "/photos/{key}.png"),
    ],
)
def test_images_of_tars_are_named_as_unpacking_would(
    published: Published, exported: Callable[..., Path], root: str, address: str
) -> None:
    folder = exported(Format.coco, image_root=root)
    names = [entry["file_name"] for entry in load(folder / "annotations.json")["images"]]
    assert names == [address.replace("{key}", row.key) for row in kept(published)]


def test_addresses_that_a_browser_asks_for_are_quoted() -> None:
    local = "/data/local-files/?d=photos/"
    assert address_below(local, "a b/c&d.jpg") == f"{local}a%20b/c%26d.jpg"
    assert (
        address_below("https://host/x", "ключ.jpg") == "https://host/x/%D0%BA%D0%BB%D1%8E%D1%87.jpg"
    )
    assert address_below("gs://bucket", "a b.jpg") == "gs://bucket/a b.jpg"


def test_label_studio_is_pointed_at_its_own_root_unless_told(
    published: Published, exported: Callable[..., Path], tmp_path: Path
) -> None:
    def addresses(folder: Path) -> list[str]:
        return [task["data"]["image"] for task in load(folder / "tasks.json")]

    extracted = exported(Format.labelstudio, with_images=True)
    for address in addresses(extracted):
        # Its document root is the export; what comes after ?d= is read as a browser quotes it.
        assert (extracted / unquote(address.removeprefix("/data/local-files/?d="))).is_file()
    request = ExportRequest(str(published.output), Format.labelstudio, tmp_path / "b")
    export(request)
    assert addresses(tmp_path / "b")[0] == "/data/local-files/?d=dog/1.jpg"


def pictures(folder: Path) -> tuple[Path, dict[str, str]]:
    """An output of pictures that lie in folders, of chunks; and the path of each key."""
    paths = {"cats/one": "cats/one.PNG", "cats/two": "cats/two.jpeg", "dogs/a b": "dogs/a b.jpg"}
    for path in paths.values():
        (folder / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / "photos" / path)
    chunks, _ = find_chunks([str(folder / "photos")], 2)
    sections = {name: {} for name in ("model", "cam", "boxes", "output")}
    settings = sections | {"input": {"labels": "folders", "max_pixels": 10_000}}
    recipe = Recipe(json.dumps(settings), ("cat", "dog"), 64 * "0")
    for chunk in chunks:
        keys = [key for key, path in paths.items() if path in {file.path for file in chunk.files}]
        rows = [
            KnownRow(
                key=key,
                shard=chunk.uri,
                sample_index=place,
                status="ok",
                error=None,
                width=40,
                height=30,
                labels=(0,),
                classes=(),
                objects=(KnownBox(0, 0, 0, 0.5, 2, 3, 20, 29),),
            )
            for place, key in enumerate(keys)
        ]
        boxes = boxes_of(rows)
        to = OutputSettings(uri=str(folder / "out"))
        publish(table(rows, boxes, ("cat", "dog"), with_maps=False), chunk, recipe, to)
    return folder / "out", paths


def test_pictures_of_folders_keep_their_own_paths(tmp_path: Path) -> None:
    output, paths = pictures(tmp_path)
    root = str(tmp_path / "photos")
    export(ExportRequest(str(output), Format.coco, tmp_path / "coco", image_root=root))
    entries = load(tmp_path / "coco" / "annotations.json")["images"]
    assert {entry["key"]: entry["file_name"] for entry in entries} == {
        key: f"{root}/{path}" for key, path in paths.items()
    }
    assert all(Path(entry["file_name"]).is_file() for entry in entries)
    export(ExportRequest(str(output), Format.fiftyone, tmp_path / "fo", image_root=root))
    places = load(tmp_path / "fo" / "data.json")
    assert sorted(places.values()) == sorted(f"{root}/{path}" for path in paths.values())
    assert set(places) == set(load(tmp_path / "fo" / "labels.json")["labels"])


def wrong_requests() -> Iterator[tuple[list[str], str]]:
    yield ["--format", "yolo", "--image-root", "x"], "--image-root: yolo has no place for it"
    yield ["--format", "fiftyone"], "extract them with --images"
    yield ["--format", "fiftyone", "--image-root", "s3://a/b"], "FiftyOne opens local files"
    yield ["--format", "fiftyone", "--image-root", "x", "--images"], "leave one of the two out"
    yield ["--format", "cvat", "--image-root", "{key}.png", "--images"], "leave one of the two out"
    results = ["--format", "coco-results"]
    yield [*results, "--truth", "a.json", "--image-root", "x"], "the images are the truth's"
    yield ["--format", "cvat", "--masks"], "--masks: cvat has no place"
    yield ["--format", "coco", "--masks"], "annotate once more with --set output.store_maps=true"
    yield ["--format", "coco", "--truth", "x.json"], "use coco-results"
    yield [*results, "--truth", "no.json"], "no.json does not exist"
    yield [*results, "--truth", "boxes.csv"], "boxes.csv has no ids"
    yield [*results, "--images"], "--images: results are read beside a truth"


@pytest.mark.parametrize(("arguments", "said"), list(wrong_requests()))
def test_a_wrong_request_is_one_line(
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    asked = ["export", str(published.output), *arguments, "--to", str(tmp_path / "x")]
    monkeypatch.setattr("sys.argv", ["cambox", *asked])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
