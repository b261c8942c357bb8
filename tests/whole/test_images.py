"""Pictures in folders, globs and tables are annotated as they would be from tars."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from PIL import Image
from rich.console import Console

from cambox.errors import RequestError
from cambox.export.export import export
from cambox.export.request import ExportRequest
from cambox.review.gallery.collect import collect
from cambox.run import plan_only, run
from cambox.summary import RunSummary
from cambox.training.dataset import BoxDataset
from cambox.training.selection import Selection
from cambox.training.stream import BoxStream
from cambox.verify.verify import verify
from conftest import ConfigMaker

QUIET = Console(file=io.StringIO())


@pytest.fixture
def photos(pictures: Path, tmp_path: Path) -> Path:
    """Twelve pictures in three class folders, and what else lies about."""
    folder = tmp_path / "photos"
    for index, path in enumerate(sorted(pictures.glob("*.jpg"))):
        (folder / "cde"[index % 3]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "cde"[index % 3] / path.name)
    (folder / "note.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_bytes(b"")
    return folder


def rows_of(summary: RunSummary) -> list[dict]:
    rows = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["key"])


def test_a_folder_gives_the_rows_that_its_pictures_in_a_tar_give(
    make_config: ConfigMaker, photos: Path, pictures: Path
) -> None:
    three = "model.kwargs={num_classes: 3}"
    from_tars = rows_of(run(make_config(three), QUIET))
    out = io.StringIO()
    config = make_config(f"input.images={photos}", "input.chunks=4", "cam.classes=both", three)
    summary = run(config, Console(file=out))
    assert summary.complete
    passed_over = "passed over 1 .txt (note.txt), 1 hidden (.hidden.jpg)"
    assert f"input.images: '{photos}': {passed_over}" in out.getvalue()
    rows = rows_of(summary)
    assert [row["labels"] for row in rows] == [[0]] * 4 + [[1]] * 4 + [[2]] * 4
    by_name = {row["key"].rpartition("/")[2]: row for row in rows}
    for expected in from_tars:
        row = by_name[expected["key"]]
        assert row["key"].partition("/")[0] in "cde"
        for column in ("status", "error", "width", "height"):
            assert row[column] == expected[column]
        found = [entry["class_id"] for entry in row["classes"]]
        assert found == [entry["class_id"] for entry in expected["classes"]]
    assert {box["class_name"] for row in rows for box in row["objects"]} == set("cde")
    names = {Path(row["shard"]).name for row in rows}
    assert names <= {f"chunk-{number:05d}-of-00004" for number in range(4)}
    assert {Path(row["shard"]).parent for row in rows} == {photos}


def test_class_folders_that_are_not_the_models_classes_are_refused(
    make_config: ConfigMaker, photos: Path
) -> None:
    images = f"input.images={photos}"
    refused = rf"input\.class_names: the folder {photos} lists 3 classes \(c, d, e\), and the model"
    with pytest.raises(RequestError, match=refused):
        run(make_config(images, "cam.classes=label"), QUIET)
    # Named otherwise by who knows better.
    known = "input.class_names=[a, b, c, d, e, f, g, h, i, j]"
    assert run(make_config(images, "cam.classes=label", known), QUIET).complete


def test_a_second_run_does_what_is_new_and_no_picture_is_in_two_chunks(
    make_config: ConfigMaker, photos: Path, pictures: Path
) -> None:
    config = make_config(f"input.images={photos}", "input.chunks=5")
    first = run(config, QUIET)
    assert run(config, QUIET).done_before == len(first.reports) > 2
    # One comes, one goes, one is another.
    shutil.copy(pictures / "picture-00.jpg", photos / "c" / "new.jpg")
    (photos / "d" / "picture-01.jpg").unlink()
    shutil.copy(pictures / "picture-01.jpg", photos / "e" / "picture-02.jpg")
    before = {file.name: file.read_bytes() for file in Path(first.folder).iterdir()}
    second = run(config, QUIET)
    assert 1 <= len(second.plan.changed) + len(second.plan.new) <= 3
    keys = [row["key"] for row in rows_of(second)]
    assert keys == sorted(
        str(path.relative_to(photos).with_suffix("")) for path in photos.glob("*/*.jpg")
    )
    after = {file.name: file.read_bytes() for file in Path(second.folder).iterdir()}
    same = [name for name, data in before.items() if after[name] == data]
    assert len(same) == len(second.plan.done)
    # Another class before the others changes the labels of all.
    (photos / "a").mkdir()
    shutil.copy(pictures / "picture-05.jpg", photos / "a" / "first.jpg")
    _, work = plan_only(config, QUIET)
    assert not work.done
    # So many parts make another recipe, because their rows would be there twice.
    assert plan_only(make_config(f"input.images={photos}", "input.chunks=6"), QUIET)[1].new


def test_all_that_reads_pictures_again_finds_them(
    make_config: ConfigMaker, photos: Path, tmp_path: Path
) -> None:
    settings = (f"input.images={photos}", "input.chunks=3", "output.store_maps=true")
    folder = run(make_config(*settings), QUIET).folder
    keys = {f"{path.parent.name}/{path.stem}" for path in photos.glob("*/*.jpg")}
    verification = verify(folder, against_input=True)
    assert verification.ok, verification.problems
    assert (verification.rows, verification.remarks) == (12, ())
    every = Selection(keep_empty=True)
    dataset = BoxDataset(folder, every)
    assert {dataset[index][1]["key"] for index in range(len(dataset))} == keys
    assert {target["key"] for _, target in BoxStream(folder, every)} == keys
    to = tmp_path / "coco"
    export(ExportRequest(folder, "coco", to, selection=every, with_images=True))
    document = json.loads((to / "annotations.json").read_text())
    for entry in document["images"]:
        stored = (photos / f"{entry['key']}.jpg").read_bytes()
        assert (to / "images" / entry["file_name"]).read_bytes() == stored
    assert {entry["key"] for entry in document["images"]} == keys
    gallery = collect(folder, 12)
    assert {item.row["key"] for item in gallery.items if item.thumbnail} == keys

    # Moved away, they are found where they are now; another picture is noticed.
    photos.rename(tmp_path / "elsewhere")
    moved = BoxDataset(folder, every, shards_at=str(tmp_path / "elsewhere"))
    assert {moved[index][1]["key"] for index in range(12)} == keys
    with pytest.raises(RequestError, match=r"chunk-.* is not there"):
        BoxDataset(folder)
    (tmp_path / "elsewhere").rename(photos)
    with (photos / "c" / "picture-00.jpg").open("ab") as file:
        file.write(b"more")
    (problem,) = verify(folder, against_input=True).problems
    assert problem.kind == "input changed"
    (photos / "c" / "picture-00.jpg").unlink()
    kinds = {problem.kind for problem in verify(folder, against_input=True).problems}
    assert kinds == {"input changed", "input unreadable"}


def test_content_is_told_by_its_bytes(make_config: ConfigMaker, photos: Path) -> None:
    config = make_config(f"input.images={photos}", "input.chunks=2", "input.fingerprint=content")
    folder = run(config, QUIET).folder
    for path in photos.glob("*/*.jpg"):
        os.utime(path, (1, 1))
    assert len(plan_only(config, QUIET)[1].done) == 2
    assert verify(folder, against_input=True).ok
    path = photos / "c" / "picture-00.jpg"
    path.write_bytes(path.read_bytes()[::-1])
    assert len(plan_only(config, QUIET)[1].changed) == 1


def test_globs_and_tables(make_config: ConfigMaker, photos: Path, tmp_path: Path) -> None:
    def labels(*settings: str) -> dict[str, list[int] | None]:
        rows = rows_of(run(make_config(*settings), QUIET))
        return {row["key"]: row["labels"] for row in rows}

    globs = f"input.images=[{photos}/c/*.jpg, {photos}/d/*.jpg]"
    found = labels(globs, f"output.uri={tmp_path}/globs", "input.chunks=1")
    keys = [path.stem for folder in "cd" for path in (photos / folder).glob("*.jpg")]
    assert found == dict.fromkeys(keys)
    # Two globs of one folder are two chunks.
    again = f"input.images=[{photos}/c/*0.jpg, {photos}/c/*3.jpg]"
    found = labels(again, f"output.uri={tmp_path}/again", "input.chunks=1")
    assert found == {"picture-00": None, "picture-03": None}

    far = photos / "d" / "picture-01.jpg"
    far_key = str(far.with_suffix(""))[1:]
    lines = ["photos/c/picture-00.jpg,3", "./photos/c/picture-00.jpg,5", f"{far},4"]
    csv = tmp_path / "some.csv"
    csv.write_text("\n".join(["image,class_index", *lines, "photos/e/picture-02.jpg,"]) + "\n")
    expected = {"photos/c/picture-00": [3, 5], "photos/e/picture-02": None, far_key: [4]}
    assert labels(f"input.images={csv}", f"output.uri={tmp_path}/csv") == expected
    parquet = tmp_path / "some.parquet"
    listed = pa.table({"image": [str(far)], "class_index": [[7, 2]], "other": ["x"]})
    pyarrow.parquet.write_table(listed, parquet)
    found = labels(f"input.images={parquet}", f"output.uri={tmp_path}/parquet")
    assert found == {far_key: [7, 2]}


def test_pictures_of_one_name_are_one_sample_with_several_images(
    make_config: ConfigMaker, photos: Path, pictures: Path
) -> None:
    with Image.open(pictures / "picture-00.jpg") as image:
        image.save(photos / "c" / "picture-00.png")
    summary = run(make_config(f"input.images={photos}"), QUIET)
    (row,) = [row for row in rows_of(summary) if row["error"]]
    assert row["key"] == "c/picture-00"
    assert "jpg is taken, png left out" in row["error"]
    assert summary.several_images == 1
    named = run(make_config(f"input.images={photos}", "input.several_images=name"), QUIET)
    keys = {row["key"] for row in rows_of(named)}
    assert keys >= {"c/picture-00.jpg", "c/picture-00.png", "c/picture-03"}
    dataset = BoxDataset(named.folder, Selection(keep_empty=True))
    assert {dataset[index][1]["key"] for index in range(len(dataset))} == keys


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none", r"'.*/none' does not exist"),
        ("empty", r"names no images \(jpg, .*\), but 1 \.txt \(note\.txt\)"),
        ("photos/*.png", r"matches no file"),
        ("linked", r"linked/to' is a link to a folder, which is not followed; name it in"),
        ("twice", r"'a\.JPG' and 'a\.jpg' would be one sample; rename one"),
        ("absent.csv", r"names 2 images that are not there: photos/x\.jpg, photos/y\.png; correct"),
        ("header.csv", r"header\.csv' has no column 'image'"),
        ("names.csv", r"names\.csv' is no table of images and classes"),
        ("negative.csv", r"row 1: -1 is no class"),
        ("strange.csv", r"names 1 files that are no images \(jpg, .*\): photos/note\.txt"),
        ("torn.parquet", r"torn\.parquet' is no table of images and classes"),
    ],
)
def test_what_is_no_input_is_said_in_one_line(
    make_config: ConfigMaker, photos: Path, tmp_path: Path, given: str, message: str
) -> None:
    picture = photos / "c" / "picture-00.jpg"
    for folder in ("empty", "linked", "twice"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty" / "note.txt").write_text("")
    (tmp_path / "linked" / "to").symlink_to(photos / "c")
    for name in ("a.jpg", "a.JPG"):
        shutil.copy(picture, tmp_path / "twice" / name)
    tables = {
        "absent.csv": "image\nphotos/x.jpg\nphotos/c/picture-00.jpg\nphotos/y.png\n",
        "header.csv": "file\na.jpg\n",
        "names.csv": "image,class_index\nphotos/c/picture-00.jpg,cat\n",
        "negative.csv": "image,class_index\nphotos/c/picture-00.jpg,-1\n",
        "strange.csv": "image\nphotos/note.txt\n",
        "torn.parquet": "PAR1",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=message) as caught:
        run(make_config(f"input.images={tmp_path}/{given}"), QUIET)
    assert str(caught.value).startswith("input.images: ")
    assert "\n" not in str(caught.value)


def test_shards_and_images_exclude_each_other(make_config: ConfigMaker, photos: Path) -> None:
    config = make_config(f"input.images={photos}")
    assert (config.input.shards, config.input.images) == ([], [str(photos)])
    assert make_config("input.images=[a]", "input.shards=b").input.images == []
    with pytest.raises(RequestError, match=r"shards and images exclude each other; remove one"):
        make_config("input={shards: a.tar, images: b}")
    with pytest.raises(RequestError, match=r"input: .*shards is missing, or images"):
        make_config("input={labels: cls}")
    with pytest.raises(RequestError, match=r"labels has no meaning beside images"):
        make_config("input.images=a", "input.labels=json:tag")
    with pytest.raises(RequestError, match=r"several_images has no meaning beside image"):
        make_config("input.image=rgb.png", "input.several_images=name")
    with pytest.raises(RequestError, match=r"is a folder; use .*/\*\.tar, or .* input\.images="):
        run(make_config(f"input.shards={photos}"), QUIET)
