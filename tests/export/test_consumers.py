"""The importers that people have read the exports themselves, where they are installed.

They are in no extra, because they ask for an older OpenCV than cambox does, and run with the newer
one all the same: ``consumers.txt`` says how to put them beside it. Rows are as in
``test_review_formats``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision

import cambox
from cambox.export import Format
from cambox.export.export import export
from cambox.export.request import ExportRequest
from cambox.output.rows import SIDES
from cambox.review.corrections.take import take_corrections
from cambox.training.selection import Selection
from makers import KnownRow, Published, corners_of, publish_rows

NAMES = ("striped", "crane (1)", "dotted", "crane (3)", "plain <&>")
# Of a pixel: Datumaro, and CVAT with it, keep hundredths.
HUNDREDTH = 0.0101
REASON = "not installed; tests/export/consumers.txt says how"

Exporting = Callable[..., Path]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_rows(tmp_path_factory.mktemp("published"))


@pytest.fixture
def exported(published: Published, tmp_path: Path) -> Exporting:
    """The folder of an export that has images without a box, too."""

    def write(kind: Format, **options: Any) -> Path:
        selection = Selection(keep_empty=True)
        to = tmp_path / "export"
        export(ExportRequest(str(published.output), kind, to, selection, **options))
        return to

    return write


def kept(published: Published) -> list[KnownRow]:
    return [row for row in published.rows if row.status == "ok"]


def require_boxes(row: KnownRow, corners: Any, names: list[str], scores: Any = None) -> None:
    """Boxes in pixels, with their classes in their order, and scores if any, are the row's."""
    assert np.abs(np.reshape(corners, (-1, 4)) - corners_of(row)).max(initial=0) < HUNDREDTH
    assert names == [NAMES[item.class_id] for item in row.objects]
    if scores is not None:
        assert np.allclose(scores, [item.box_score for item in row.objects], rtol=0, atol=1e-6)


def test_label_studio_takes_every_prediction_for_its_own(
    published: Published, exported: Exporting
) -> None:
    """Rows 17 to 19: scores are kept, all boxes are in one prediction, none is an annotation."""
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason=REASON)
    objects = pytest.importorskip("label_studio_sdk.label_interface.objects", reason=REASON)
    folder = exported(Format.labelstudio)
    config = interface.LabelInterface((folder / "labels.xml").read_text())
    config.validate()
    (control,) = config.controls
    assert tuple(control.labels) == NAMES
    for row, task in zip(
        kept(published), json.loads((folder / "tasks.json").read_text()), strict=True
    ):
        read = objects.TaskValue(**task)
        assert read.annotations == []
        (prediction,) = read.predictions
        assert config.validate_prediction(prediction.model_dump(), return_errors=True) == []
        assert prediction.model_version == published.recipe.digest[:16]
        assert len(prediction.result) == len(row.objects)


def test_what_label_studio_exports_as_coco_are_the_boxes(
    published: Published, exported: Exporting, tmp_path: Path
) -> None:
    """Accepted as they are by a person and exported again, the boxes are where they were."""
    converter = pytest.importorskip("label_studio_sdk.converter", reason=REASON)
    folder = exported(Format.labelstudio)
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        accepted = {"id": number, "result": task["predictions"][0]["result"], "completed_by": 1}
        task |= {"id": number, "annotations": [accepted]}
    accepted_file = tmp_path / "accepted.json"
    accepted_file.write_text(json.dumps(tasks))
    made = converter.Converter(
        (folder / "labels.xml").read_text(), str(tmp_path), download_resources=False
    )
    made.convert_to_coco(str(accepted_file), str(tmp_path / "coco"), is_dir=False)
    coco = json.loads((tmp_path / "coco" / "result.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for number, row in enumerate(kept(published)):
        found = [item for item in coco["annotations"] if item["image_id"] == number]
        boxes = np.reshape([item["bbox"] for item in found], (-1, 4))
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        require_boxes(row, corners, [names[item["category_id"]] for item in found])


def test_label_studios_coco_import_reads_ours(
    published: Published, exported: Exporting, tmp_path: Path
) -> None:
    """Row 24: it fails on a degenerate segmentation. It makes a rectangle and a polygon of each."""
    imports = pytest.importorskip("label_studio_sdk.converter.imports.coco", reason=REASON)
    folder, made = exported(Format.coco), tmp_path / "tasks.json"
    imports.convert_coco_to_ls(str(folder / "annotations.json"), str(made), out_type="predictions")
    tasks = json.loads(made.read_text())
    for row, task in zip(kept(published), tasks, strict=True):
        kinds = [region["type"] for region in task["predictions"][0]["result"]]
        assert kinds == ["rectanglelabels", "polygonlabels"] * len(row.objects)


def require_items(published: Published, dataset: Any, datumaro: Any, number: str) -> None:
    """Boxes, classes and scores of a dataset of Datumaro are those of the rows.

    Args:
        number: what it calls the number of the image.
    """
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    assert tuple(names) == NAMES
    items = {item.attributes[number]: item for item in dataset}
    assert [published.rows[place] for place in sorted(items)] == kept(published)
    for place, item in items.items():
        row = published.rows[place]
        assert item.media.size == (row.height, row.width)
        boxes = [one for one in item.annotations if one.type == datumaro.AnnotationType.bbox]
        boxes.sort(key=lambda one: one.id)
        classes = [names[one.label] for one in boxes]
        scores = [one.attributes["score"] for one in boxes]
        require_boxes(row, [one.points for one in boxes], classes, scores)


def test_cvats_xml_by_datumaro(published: Published, exported: Exporting) -> None:
    """Row 22: every score is an attribute of its box."""
    datumaro = pytest.importorskip("datumaro", reason=REASON)
    folder = exported(Format.cvat, with_images=True)
    require_items(published, datumaro.Dataset.import_from(str(folder), "cvat"), datumaro, "frame")


def test_coco_by_datumaro_with_which_cvat_imports(
    published: Published, exported: Exporting, tmp_path: Path
) -> None:
    """Rows 23 and 24: no category is 0, for which no label is loaded, and no polygon too short."""
    datumaro = pytest.importorskip("datumaro", reason=REASON)
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    images = exported(Format.coco, with_images=True)
    shutil.copy(images / "annotations.json", folder / "annotations" / "instances_default.json")
    shutil.copytree(images / "images", folder / "images" / "default")
    dataset = datumaro.Dataset.import_from(str(folder), "coco_instances")
    require_items(published, dataset, datumaro, "id")
    polygon = datumaro.AnnotationType.polygon
    shapes = [one for item in dataset for one in item.annotations if one.type == polygon]
    assert len(shapes) == sum(len(row.objects) for row in kept(published))


def test_cvat_takes_the_labels(exported: Exporting) -> None:
    """Row 22: the task's labels have the number that the boxes have."""
    models = pytest.importorskip("cvat_sdk.api_client.models", reason=REASON)
    for name, raw in zip(
        NAMES, json.loads((exported(Format.cvat) / "labels.json").read_text()), strict=True
    ):
        label = models.PatchedLabelRequest(**raw)
        assert label.name == name
        (attribute,) = (models.AttributeRequest(**one) for one in raw["attributes"])
        assert (attribute.name, attribute.input_type.value) == ("score", "number")


def test_fiftyones_importer_reads_boxes_with_confidences(
    published: Published, exported: Exporting
) -> None:
    """The importer that ``Dataset.from_dir`` runs, without the database it writes to."""
    importers = pytest.importorskip("fiftyone.utils.data.importers", reason=REASON)
    folder = exported(Format.fiftyone, with_images=True)
    found = {}
    with importers.FiftyOneImageDetectionDatasetImporter(dataset_dir=str(folder)) as importer:
        assert tuple(importer.get_dataset_info()["classes"]) == NAMES
        for path, _, label in importer:
            assert Path(path).is_file()
            found[Path(path).stem] = label.detections
    order = list(json.loads((folder / "labels.json").read_text())["labels"])
    for row, name in zip(kept(published), order, strict=True):
        shares = np.reshape([one.bounding_box for one in found[name]], (-1, 4))
        corners = np.hstack([shares[:, :2], shares[:, :2] + shares[:, 2:]])
        corners *= [row.width, row.height] * 2
        classes = [one.label for one in found[name]]
        require_boxes(row, corners, classes, [one.confidence for one in found[name]])
        assert [one["rank"] for one in found[name]] == [item.rank for item in row.objects]


def test_coco_by_supervision(published: Published, exported: Exporting) -> None:
    folder = exported(Format.coco, with_images=True)
    loaded = supervision.DetectionDataset.from_coco(
        str(folder / "images"), str(folder / "annotations.json")
    )
    assert tuple(loaded.classes) == NAMES
    names = [
        entry["file_name"]
        for entry in json.loads((folder / "annotations.json").read_text())["images"]
    ]
    for row, name in zip(kept(published), names, strict=True):
        found = loaded.annotations[str(folder / "images" / name)]
        require_boxes(row, found.xyxy, [NAMES[number] for number in found.class_id])


def by_label_studio(exporting: Exporting, to: Path) -> Path:
    """Its JSON, of tasks whose predictions a person submitted as they were."""
    objects = pytest.importorskip("label_studio_sdk.label_interface.objects", reason=REASON)
    tasks = json.loads((exporting(Format.labelstudio) / "tasks.json").read_text())
    submitted = []
    for number, task in enumerate(tasks):
        accepted = {"id": number, "result": task["predictions"][0]["result"], "completed_by": 1}
        value = objects.TaskValue(**task | {"id": number, "annotations": [accepted]})
        submitted.append(value.model_dump(mode="json"))
    to.write_text(json.dumps(submitted))
    return to


def by_datumaro(form: str, exporting: Exporting, to: Path) -> Path:
    """What CVAT's own library makes of our CVAT export, in one of the formats it exports."""
    datumaro = pytest.importorskip("datumaro", reason=REASON)
    folder = exporting(Format.cvat, with_images=True)
    datumaro.Dataset.import_from(str(folder), "cvat").export(str(to), form, save_media=False)
    (found,) = [path for path in to.rglob("*.*") if path.suffix in {".xml", ".json"}]
    return found


@pytest.mark.parametrize(
    "tool",
    [by_label_studio, partial(by_datumaro, "cvat"), partial(by_datumaro, "coco_instances")],
    ids=["label-studio", "cvat", "coco"],
)
def test_what_a_tool_hands_back_becomes_reviewed_rows(
    tool: Callable[..., Path], tmp_path: Path
) -> None:
    """Out to the tool, through its own reader and writer, and back: the same boxes, all kept."""
    (tmp_path / "mine").mkdir()
    published = publish_rows(tmp_path / "mine")

    def exporting(kind: Format, **options: Any) -> Path:
        selection, to = Selection(keep_empty=True), tmp_path / "export"
        export(ExportRequest(str(published.output), kind, to, selection, **options))
        return to

    taken = take_corrections(str(tool(exporting, tmp_path / "back")), str(published.output))
    assert taken.complete
    assert len(taken.rows) == len(kept(published))
    assert taken.tally.total == {"kept": sum(len(row.objects) for row in kept(published))}
    expected = {(row.shard, row.key): row for row in kept(published)}
    rows = cambox.read(str(published.output)).to_table().to_pylist()
    reviewed = [row for row in rows if row["reviewed"]]
    assert {(row["shard"], row["key"]) for row in reviewed} == expected.keys()
    for row in reviewed:
        known = expected[row["shard"], row["key"]]
        corners = [[item[side] for side in SIDES] for item in row["objects"]]
        require_boxes(known, corners, [NAMES[item["class_id"]] for item in row["objects"]])
