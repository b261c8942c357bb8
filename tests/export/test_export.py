"""Every export, read back by its own consumer, has the boxes of the output."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import supervision
import torchvision
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from cambox.boxes import Boxes
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.export import Format
from cambox.export.coco import CocoWriter
from cambox.export.coco_results import CocoResultsWriter
from cambox.export.cvat import CvatWriter
from cambox.export.export import export
from cambox.export.fiftyone import FiftyOneWriter
from cambox.export.hf import HuggingFaceWriter
from cambox.export.labelstudio import LabelStudioWriter
from cambox.export.request import ExportRequest
from cambox.export.voc import VocWriter
from cambox.export.writer import Exported, FileNames, Writer
from cambox.export.yolo import YoloWriter
from cambox.output.footer import Recipe
from cambox.output.publish import publish
from cambox.output.rows import table
from cambox.sources.shards import find_shards
from cambox.training.labelled import LabelledImage
from cambox.training.selection import ClassList, Selection
from makers import (
    CLASS_NAMES,
    ORIENTATION,
    TURN_BY_90,
    KnownBox,
    KnownRow,
    Published,
    boxes_of,
    corners_of,
    publish_rows,
    stored_picture,
    write_tar,
)

NAMES = ("striped", "crane (1)", "dotted", "crane (3)", "plain <&>")
PIXELS = 0.01
# What torchvision calls them.
VOC_NUMBERS = {"person": 15, "dog": 12}
WRITERS: dict[Format, type[Writer]] = {
    Format.coco: CocoWriter,
    Format.yolo: YoloWriter,
    Format.voc: VocWriter,
    Format.hf: HuggingFaceWriter,
    Format.coco_results: CocoResultsWriter,
    Format.labelstudio: LabelStudioWriter,
    Format.cvat: CvatWriter,
    Format.fiftyone: FiftyOneWriter,
}
# Without extracting images FiftyOne is told where they are.
WITHOUT_IMAGES: dict[Format, dict[str, Any]] = {Format.fiftyone: {"image_root": "photos"}}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_rows(tmp_path_factory.mktemp("published"))


@pytest.fixture
def exported(published: Published, tmp_path: Path) -> Callable[..., Path]:
    """The folder of an export, with images unless told."""

    def write(kind: Format, *, with_images: bool = True, **options: Any) -> Path:
        to = tmp_path / "export"
        export(ExportRequest(str(published.output), kind, to, with_images=with_images, **options))
        return to

    return write


def class_ids(row: KnownRow) -> list[int]:
    return [item.class_id for item in row.objects]


def names_of(folder: Path) -> dict[tuple[str, str], str]:
    """The name of each image by shard and key, as the export says."""
    with (folder / "shards.csv").open(newline="", encoding="utf-8") as file:
        return {(row["shard"], row["key"]): row["image"] for row in csv.DictReader(file)}


def require_picture(row: KnownRow, image: Image.Image) -> None:
    """An exported picture is the row's, upright to a reader that knows nothing of EXIF."""
    assert image.size == (row.width, row.height)
    difference = np.asarray(image.convert("RGB"), int) - np.asarray(stored_picture(row), int)
    # Small pictures with hard colours lose a little when the turned one is encoded anew.
    assert np.abs(difference).mean() < 2


def test_coco_by_its_own_tools(published: Published, exported: Callable[..., Path]) -> None:
    folder = exported(Format.coco)
    coco = COCO(str(folder / "annotations.json"))
    assert {entry["id"]: entry["name"] for entry in coco.loadCats(coco.getCatIds())} == dict(
        enumerate(NAMES, 1)
    )
    assert len(coco.getImgIds()) == len(published.with_boxes)
    for image_id in coco.getImgIds():
        row = published.rows[image_id]
        (entry,) = coco.loadImgs(image_id)
        assert (entry["shard"], entry["key"]) == (row.shard, row.key)
        assert (entry["width"], entry["height"]) == (row.width, row.height)
        found = coco.loadAnns(coco.getAnnIds(image_id))
        boxes = np.array([item["bbox"] for item in found])
        boxes[:, 2:] += boxes[:, :2]
        assert np.abs(boxes - corners_of(row)).max() < PIXELS
        assert [item["category_id"] - 1 for item in found] == class_ids(row)
        scores = [item.box_score for item in row.objects]
        assert np.allclose([item["score"] for item in found], scores, atol=1e-6)
        sizes = corners_of(row)[:, 2:] - corners_of(row)[:, :2]
        assert np.allclose([item["area"] for item in found], sizes.prod(axis=1), atol=0.1)
    # Its own evaluation: the boxes are all found, if they are compared with themselves.
    assert len(coco.loadRes(coco.dataset["annotations"]).getAnnIds()) == len(coco.getAnnIds())


def test_coco_images_by_torchvision(published: Published, exported: Callable[..., Path]) -> None:
    folder = exported(Format.coco)
    loader = torchvision.datasets.CocoDetection(
        str(folder / "images"), str(folder / "annotations.json")
    )
    assert len(loader) == len(published.with_boxes)
    for (image, _), image_id in zip(
        map(loader.__getitem__, range(len(loader))), loader.ids, strict=True
    ):
        require_picture(published.rows[image_id], image)


def test_yolo_by_supervision(published: Published, exported: Callable[..., Path]) -> None:
    folder = exported(Format.yolo, val=0.0)
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    loaded = supervision.DetectionDataset.from_yolo(
        str(images), str(labels), str(folder / "data.yaml")
    )
    assert tuple(loaded.classes) == NAMES
    assert len(loaded) == len(published.with_boxes)
    names = names_of(folder)
    for row in published.with_boxes:
        path = images / names[row.shard, row.key]
        found = loaded.annotations[str(path)]
        size = np.array([row.width, row.height] * 2)
        # 1e-5 of the image's size, and the reader's own float32.
        assert np.abs(found.xyxy / size - corners_of(row) / size).max() < 1e-5
        assert found.class_id is not None
        assert found.class_id.tolist() == class_ids(row)
        require_picture(row, Image.open(path))


def test_yolo_by_the_rules_of_ultralytics(
    published: Published, exported: Callable[..., Path]
) -> None:
    folder = exported(Format.yolo, selection=Selection(keep_empty=True), val=0.4)
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert data["names"] == dict(enumerate(NAMES))
    assert data["train"] != data["val"]
    images = [path for split in ("train", "val") for path in (folder / data[split]).iterdir()]
    assert len(images) == len(published.with_boxes) + 1
    rows = {name: key for key, name in names_of(folder).items()}
    of_key = {(row.shard, row.key): row for row in published.rows}
    for image in images:
        # Its rule to find a label: the last "/images/" of the path becomes "/labels/".
        text = "/labels/".join(str(image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
        lines = [line.split() for line in Path(text).read_text().splitlines()]
        row = of_key[rows[image.name]]
        assert len(lines) == len(row.objects)
        assert all(len(line) == 5 for line in lines)
        assert [int(line[0]) for line in lines] == class_ids(row)
        shares = np.array([line[1:] for line in lines], np.float64).reshape(-1, 4)
        assert ((shares >= 0) & (shares <= 1)).all()
        corners = corners_of(row).astype(np.float64) / ([row.width, row.height] * 2)
        low, high = corners[:, :2], corners[:, 2:]
        assert np.allclose(shares[:, :2], (low + high) / 2, rtol=1e-5, atol=0)
        assert np.allclose(shares[:, 2:], high - low, rtol=1e-5, atol=0)


def voc_corners(box: Any) -> list[float]:
    """Half-open from 0: VOC counts from 1 and names the last pixel inside."""
    return [float(box["xmin"]) - 1, float(box["ymin"]) - 1, float(box["xmax"]), float(box["ymax"])]


def voc_boxes(row: KnownRow, decimals: int = 0) -> np.ndarray:
    """The boxes of a row; sides shorter than a pixel, which VOC cannot say, are one pixel."""
    boxes = corners_of(row).round(3).round(decimals)
    low = np.minimum(boxes[:, :2], np.array([row.width, row.height]) - 1)
    short = boxes[:, 2:] - boxes[:, :2] < 1
    low = np.where(short, low, boxes[:, :2])
    return np.concatenate([low, np.where(short, low + 1, boxes[:, 2:])], axis=1)


def test_voc_by_torchvision(published: Published, exported: Callable[..., Path]) -> None:
    folder = exported(Format.voc)
    # torchvision takes all images for .jpg; those that are not, it opens where they are so named.
    for path in (folder / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir():
        path.rename(path.with_suffix(".jpg"))
    loader = torchvision.datasets.VOCDetection(str(folder), year="2012", image_set="train")
    names = names_of(folder)
    assert len(loader) == len(published.with_boxes)
    for row, (image, found) in zip(
        published.with_boxes, map(loader.__getitem__, range(len(loader))), strict=True
    ):
        annotation = found["annotation"]
        assert annotation["filename"] == names[row.shard, row.key]
        assert annotation["size"] == {
            "width": str(row.width),
            "height": str(row.height),
            "depth": "3",
        }
        boxes = np.array([voc_corners(item["bndbox"]) for item in annotation["object"]])
        assert np.abs(boxes - voc_boxes(row)).max() < PIXELS
        assert [item["name"] for item in annotation["object"]] == [
            NAMES[number] for number in class_ids(row)
        ]
        require_picture(row, image)


def test_voc_by_supervision(published: Published, exported: Callable[..., Path]) -> None:
    folder = exported(Format.voc, fractions=True)
    root = folder / "VOCdevkit" / "VOC2012"
    loaded = supervision.DetectionDataset.from_pascal_voc(
        str(root / "JPEGImages"), str(root / "Annotations")
    )
    names = names_of(folder)
    assert len(loaded) == len(published.with_boxes)
    for row in published.with_boxes:
        found = loaded.annotations[str(root / "JPEGImages" / names[row.shard, row.key])]
        assert np.abs(found.xyxy - voc_boxes(row, decimals=3)).max() < PIXELS


def odd_output(folder: Path, pictures: dict[str, bytes], class_names: Sequence[str]) -> Path:
    """An output of one shard: pictures by member name, of 40 x 30 pixels, each with one box."""
    folder.mkdir(exist_ok=True)
    (shard,) = find_shards([str(write_tar(folder / "odd.tar", pictures))])
    settings = {name: {} for name in ("model", "cam", "boxes", "output")}
    settings |= {"input": {"labels": "cls", "max_pixels": 10_000}}
    recipe = Recipe(json.dumps(settings), tuple(class_names), 64 * "0")
    rows = [
        KnownRow(
            key=name.rpartition(".")[0],
            shard=shard.uri,
            sample_index=place,
            status="ok",
            error=None,
            width=40,
            height=30,
            labels=(0,),
            classes=(),
            objects=(KnownBox(place % len(class_names), 0, 0, 0.5, 2.4, 3.6, 20.5, 29.9),),
        )
        for place, name in enumerate(pictures)
    ]
    output = OutputSettings(uri=str(folder / "out"))
    publish(table(rows, boxes_of(rows), class_names, with_maps=False), shard, recipe, output)
    return folder / "out"


def encoded(kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 90)).save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["JPEG", "jpeg", "jpg", "jpe", "jfif", "png"])
def test_voc_by_torchvision_and_its_second_version_whatever_jpegs_are_called(
    tmp_path: Path, suffix: str
) -> None:
    pictures = {f"{name}.{suffix}": encoded("JPEG") for name in ("a", "b")}
    names = list(VOC_NUMBERS)
    output = odd_output(tmp_path, pictures, names)
    export(ExportRequest(str(output), Format.voc, tmp_path / "voc", with_images=True))
    plain = torchvision.datasets.VOCDetection(str(tmp_path / "voc"), "2012", "train")
    wrapped = torchvision.datasets.wrap_dataset_for_transforms_v2(plain)
    assert len(wrapped) == 2
    for place, ((image, found), (_, target)) in enumerate(zip(plain, wrapped, strict=True)):
        assert image.size == (40, 30)
        assert found["annotation"]["filename"] == f"{'ab'[place]}.jpg"
        (item,) = found["annotation"]["object"]
        assert item["name"] == names[place]
        # 2.4 and 3.6 begin in the third and in the fifth pixel, counted from 1.
        assert target["boxes"].tolist() == [[3, 5, 20, 30]]
        assert target["labels"].tolist() == [VOC_NUMBERS[names[place]]]


def test_an_image_that_cannot_be_turned_is_named_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_BY_90
    turned = encoded("JPEG", exif=exif)
    # Cut before the pixels begin.
    odd = turned[: turned.index(b"\xff\xda")]
    pictures = {"a.jpg": encoded("JPEG"), "odd.jpg": odd, "p.png": encoded("PNG")}
    output = odd_output(tmp_path, pictures, ["x"])
    asked = [str(output), "--format", "voc", "--images", "--to", str(tmp_path / "voc")]
    assert run(monkeypatch, "export", *asked) == 0
    said = capsys.readouterr().out
    assert "2 images with 2 boxes, 1 class" in said
    assert "left out: 1 cannot be turned upright" in said
    assert re.search(
        r"left out: odd of .*odd\.tar: JPEG of 40 x 30 pixels can not be decoded", said
    )
    assert "another format than JPEG: 1 image" in said
    about = json.loads((tmp_path / "voc" / "cambox.json").read_text())
    assert (about["images"], about["left_out"]) == (2, {"cannot be turned upright": 1})
    assert sorted(names_of(tmp_path / "voc").values()) == ["a.jpg", "p.png"]

    alone = odd_output(tmp_path / "alone", {"odd.jpg": odd}, ["x"])
    with pytest.raises(RequestError, match=r"no image is left .*odd of .*odd\.tar"):
        export(ExportRequest(str(alone), Format.coco, tmp_path / "coco", with_images=True))
    assert not (tmp_path / "coco").exists()


def test_yolo_puts_a_share_of_the_images_aside_and_keeps_them_there(tmp_path: Path) -> None:
    keys = [f"key-{number}.jpg" for number in range(300)]
    lists = []
    for name, some in (("some", keys[:200]), ("all", keys)):
        output = odd_output(tmp_path / name, dict.fromkeys(some, b"-"), ["x"])
        report = export(ExportRequest(str(output), Format.yolo, tmp_path / name / "yolo"))
        splits = [
            {path.stem for path in (tmp_path / name / "yolo" / "labels" / split).iterdir()}
            for split in ("train", "val")
        ]
        assert splits[0] | splits[1] == {key.removesuffix(".jpg") for key in some}
        assert not splits[0] & splits[1]
        assert report.notes == (
            f"by a hash of the key: train {len(splits[0])}, val {len(splits[1])}",
        )
        lists.append(splits)
    assert lists[0][0] <= lists[1][0]
    assert lists[0][1] <= lists[1][1]
    # A tenth of 300; this far from it once in ten thousand.
    assert 10 < len(lists[1][1]) < 50


@pytest.mark.parametrize("with_images", [True, False])
def test_parquet_by_hugging_face(
    published: Published, exported: Callable[..., Path], tmp_path: Path, with_images: bool
) -> None:
    folder = exported(Format.hf, with_images=with_images)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")
    assert isinstance(loaded, datasets.Dataset)
    category = loaded.features["objects"]["category"].feature
    assert isinstance(category, datasets.ClassLabel)
    assert tuple(category.names) == NAMES
    assert len(loaded) == len(published.with_boxes)
    for row, found in zip(published.with_boxes, loaded, strict=True):
        assert isinstance(found, dict)
        assert published.rows[found["image_id"]] == row
        assert (found["shard"], found["key"]) == (row.shard, row.key)
        boxes = np.array(found["objects"]["bbox"])
        boxes[:, 2:] += boxes[:, :2]
        assert np.abs(boxes - corners_of(row)).max() < PIXELS
        assert found["objects"]["category"] == class_ids(row)
        assert np.allclose(found["objects"]["score"], [item.box_score for item in row.objects])
        assert ("image" in found) == with_images
        if with_images:
            assert isinstance(loaded.features["image"], datasets.Image)
            require_picture(row, found["image"])
    numbers = [number for found in loaded["objects"] for number in found["id"]]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("kind", list(Format))
def test_images_are_left_in_their_shards_unless_asked_for(
    published: Published, exported: Callable[..., Path], kind: Format
) -> None:
    folder = exported(kind, with_images=False, **WITHOUT_IMAGES.get(kind, {}))
    assert not [path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".webp")]
    about = json.loads((folder / "cambox.json").read_text())
    assert about["images"] == len(published.with_boxes)
    assert about["left_out"] == {"no box": 1, "unreadable": 1, "no_label": 1}
    assert about["class_ids"] == {name: number for number, name in enumerate(NAMES)}


def test_only_what_has_to_be_turned_is_encoded_anew(
    published: Published, exported: Callable[..., Path]
) -> None:
    folder = exported(Format.coco)
    about = json.loads((folder / "cambox.json").read_text())
    assert about["turned"] == 1
    entries = json.loads((folder / "annotations.json").read_text())["images"]
    same = 0
    for entry in entries:
        with tarfile.open(entry["shard"]) as archive:
            suffix = Path(entry["file_name"]).suffix
            file = archive.extractfile(entry["key"] + suffix)
            assert file is not None
            same += file.read() == (folder / "images" / entry["file_name"]).read_bytes()
    assert same == len(entries) - 1


def test_classes_can_be_chosen_and_numbered(
    exported: Callable[..., Path], published: Published
) -> None:
    folder = exported(Format.coco, selection=Selection(classes=(3, 0)))
    coco = COCO(str(folder / "annotations.json"))
    assert [entry["name"] for entry in coco.loadCats([1, 2])] == ["crane (3)", "striped"]
    wanted = [
        item.class_id for row in published.rows for item in row.objects if item.class_id in (3, 0)
    ]
    assert [(3, 0)[item["category_id"] - 1] for item in coco.loadAnns(coco.getAnnIds())] == wanted


def test_classes_without_a_box_can_be_left_out(
    exported: Callable[..., Path], published: Published
) -> None:
    best = max(item.box_score for row in published.rows for item in row.objects)
    (only,) = {
        item.class_id for row in published.rows for item in row.objects if item.box_score >= best
    }
    folder = exported(
        Format.yolo, selection=Selection(min_score=best), present_classes=True, with_images=False
    )
    assert yaml.safe_load((folder / "data.yaml").read_text())["names"] == {0: NAMES[only]}
    (label,) = (folder / "labels").glob("*/*")
    assert label.read_text().startswith("0 ")


@pytest.mark.parametrize("kind", list(Format))
def test_a_failure_leaves_nothing_behind(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Format
) -> None:
    writer = WRITERS[kind]
    add = writer.add
    added = []

    def fail(self: Any, exported: Exported) -> None:
        added.append(exported)
        if len(added) == 4:
            raise OSError("no space left on device")
        add(self, exported)

    monkeypatch.setattr(writer, "add", fail)
    (tmp_path / "here").mkdir()
    to, with_images = tmp_path / "here" / "export", kind is not Format.coco_results
    request = ExportRequest(str(published.output), kind, to, with_images=with_images)
    with pytest.raises(RequestError, match="no space left"):
        export(request)
    assert len(added) == 4
    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_in_the_way_is_kept(published: Published, tmp_path: Path) -> None:
    request = ExportRequest(str(published.output), Format.coco, tmp_path / "export")
    assert export(request).images == len(published.with_boxes)
    before = (tmp_path / "export" / "annotations.json").stat()
    with pytest.raises(RequestError, match="is there already"):
        export(request)
    assert (tmp_path / "export" / "annotations.json").stat() == before


def test_a_damaged_shard_leaves_no_export(tmp_path: Path) -> None:
    own = publish_rows(tmp_path)
    whole = own.shards[1].read_bytes()
    stat = own.shards[1].stat()
    # The header of a member in the middle, with nothing that a listing would show.
    place = whole.index("ключ.webp".encode())
    own.shards[1].write_bytes(whole[:place] + b"#" + whole[place + 1 :])
    os.utime(own.shards[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    request = ExportRequest(str(own.output), Format.voc, tmp_path / "export", with_images=True)
    with pytest.raises(RequestError, match=r"shard-1\.tar"):
        export(request)
    assert not (tmp_path / "export").exists()
    assert export(ExportRequest(str(own.output), Format.voc, tmp_path / "export")).images > 0


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["cambox", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command(
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = tmp_path / "made" / "export"
    filters = "--images --min-score 0.2 --max-rank 1 --max-component 0 --classes 0,1,2 --keep-empty"
    asked = [str(published.output), "--format", "coco", "--to", str(to), *filters.split()]
    assert run(monkeypatch, "export", *asked) == 0
    coco = json.loads((to / "annotations.json").read_text())
    wanted = [
        item
        for row in published.rows
        for item in row.objects
        if item.box_score >= np.float32(0.2)
        and item.rank <= 1
        and item.component == 0
        and item.class_id in (0, 1, 2)
    ]
    assert len(coco["annotations"]) == len(wanted) > 0
    assert len(coco["images"]) == len([row for row in published.rows if row.status == "ok"])
    said = capsys.readouterr().out
    assert f"{len(coco['images'])} images with {len(wanted)} boxes, 3 classes" in said
    assert "left out: 1 no_label, 1 unreadable" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "{tmp}/x", "--val", "0.1"], "--val: voc has one list of images"),
        (["--to", "{tmp}/x", "--classes", "one"], "no list of class ids"),
        (["--to", "{tmp}/x", "--classes", "77"], "none of the recipe's classes"),
        (["--to", "{tmp}/x", "--status", "fine"], "statuses"),
        (["--to", "{tmp}/x", "--min-score", "1.0", "--only-labels"], "no image is left"),
        (["--to", "{tmp}"], "is there already"),
        (["--to", "{tmp}/file/x"], "nothing was exported"),
        (["--to", "s3://bucket/x"], "is a URL"),
        (["--to", "{tmp}/x", "--images", "--shards-at", "{tmp}"], "is not there"),
    ],
)
def test_a_wrong_request_is_one_line(
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    (tmp_path / "file").write_text("")
    asked = [argument.format(tmp=tmp_path) for argument in arguments]
    assert run(monkeypatch, "export", str(published.output), "--format", "voc", *asked) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


KEYS = st.lists(
    st.text(min_size=1, max_size=40)
    | st.sampled_from(
        [
            "../../etc/passwd",
            "/etc/passwd",
            "a\0b",
            "..",
            ".",
            "con",
            "NUL",
            "com1",
            "-rf",
            "a/b",
            "a_b",
            "A_B",
            "a:b",
            "x" * 5000,
            "é" * 300,
            "e\u0301",
            "\u00e9",
            "a\nb",
            " ",
            "~",
            "%2e",
        ]
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=50)
@given(KEYS)
def test_no_name_leads_anywhere_and_no_two_meet(keys: list[str]) -> None:
    samples = [(key, f"shard-{place % 3}") for place, key in enumerate(keys)]
    samples = list(dict.fromkeys(samples))
    file_names = FileNames.of_keys(key for key, _ in samples)
    names = [file_names.name(key, shard) for key, shard in samples]
    assert len({name.casefold() for name in names}) == len(samples)
    for name in names:
        assert Path("folder", f"{name}.jpg").resolve().parent == Path("folder").resolve()
        assert not set(name) & set('/\\:*?"<>|\0.%~ \n')
        assert not name.startswith("-")
        assert 0 < len(f"{name}.jpeg".encode()) <= 255
        assert name.casefold() not in ("con", "nul", "com1")
    # A name does not depend on the order of the samples.
    again = FileNames.of_keys(key for key, _ in reversed(samples))
    assert [again.name(key, shard) for key, shard in samples] == names


def test_no_key_takes_the_name_that_another_gets_by_its_digest() -> None:
    def by_hand(key: str, more: str = "") -> str:
        return f"a_b-{hashlib.sha256(f's{chr(0)}{key}{more}'.encode()).hexdigest()[:16]}"

    meeting = ["a/b", "a.b"]
    # Made by somebody who knows how names are made; upper case is the same file on many disks.
    twins = [by_hand("a/b"), by_hand("a.b").upper()]
    names = FileNames.of_keys([*meeting, *twins, by_hand("c")])
    assert [names.name(key, "s") for key in meeting] == [by_hand(key, "\0") for key in meeting]
    assert [names.name(key, "s") for key in (*twins, by_hand("c"))] == [*twins, by_hand("c")]
    # Nobody else's names change.
    plain = FileNames.of_keys(meeting)
    assert [plain.name(key, "s") for key in meeting] == [by_hand(key) for key in meeting]


@pytest.mark.parametrize("kind", [kind for kind in Format if kind is not Format.coco_results])
def test_images_whose_keys_meet_are_told_apart_and_counted(tmp_path: Path, kind: Format) -> None:
    keys = ["a/b", "a b", "A_B", "=1+1|cmd", "-x", "@y", "plain"]
    pictures = {f"{key}.jpg": encoded("JPEG") for key in keys}
    output = odd_output(tmp_path, pictures, ["x"])
    to = tmp_path / "to"
    report = export(ExportRequest(str(output), kind, to, with_images=True))
    told = "told apart by a digest in the name, as keys of several make one name: 3 images"
    assert report.images == 7
    assert told in report.notes
    if kind is Format.hf:
        stored = datasets.load_dataset("parquet", data_dir=str(to / "data"), split="train")
        stored = stored.cast_column("image", datasets.Image(decode=False))
        names = [row["image"]["path"] for row in stored]
    else:
        names = [path.name for path in to.rglob("*.jpg")]
    assert len({name.casefold() for name in names}) == 7
    assert "plain.jpg" in names
    if kind in (Format.voc, Format.yolo):
        # A spreadsheet takes none of these cells for a formula; all others are as they are.
        with (to / "shards.csv").open(newline="", encoding="utf-8") as file:
            cells = [row["key"] for row in csv.DictReader(file)]
        assert cells == ["a/b", "a b", "A_B", "'=1+1|cmd", "'-x", "'@y", "plain"]


def test_plain_keys_keep_their_names() -> None:
    names = FileNames.of_keys(["scene-000001", "dog/1", "ключ"])
    assert [names.name(key, "s") for key in ("scene-000001", "dog/1", "ключ")] == [
        "scene-000001",
        "dog_1",
        "ключ",
    ]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(*[st.floats(0, 1) for _ in range(4)]).map(sorted), min_size=1, max_size=4),
    st.integers(1, 5000),
    st.integers(1, 5000),
)
def test_coco_boxes_stay_inside_their_image(
    shares: list[list[float]], width: int, height: int
) -> None:
    # a <= b <= c <= d: one box is (a, b)..(c, d).
    corners = (np.array(shares) * [width, height, width, height]).astype(np.float32)
    image = LabelledImage(7, "k", "s", width, height, Boxes.of(corners))
    rounded = np.array(Exported(image, "k", "jpg").corners())
    assert np.abs(rounded - corners).max() < PIXELS
    assert (rounded >= 0).all()
    assert (rounded <= [width, height] * 2).all()


def test_coco_is_on_the_disk_and_not_in_memory(tmp_path: Path) -> None:
    boxes, count = Boxes.of([[1, 2, 30, 40]] * 5, class_id=0), 2000
    writer = CocoWriter(tmp_path, ClassList.of(CLASS_NAMES, None), with_images=False)
    for number in range(count):
        image = LabelledImage(number, str(number), "s", 50, 50, boxes)
        writer.add(Exported(image, str(number), "jpg"))
    before_the_end = sum(path.stat().st_size for path in tmp_path.iterdir())
    writer.close()
    written = json.loads((tmp_path / "annotations.json").read_text())
    assert (len(written["images"]), len(written["annotations"])) == (count, 5 * count)
    assert before_the_end > 0.8 * (tmp_path / "annotations.json").stat().st_size
