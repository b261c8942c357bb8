"""`cambox verify`: a sound output passes, and each kind of damage is found and named."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from rich.console import Console

import cambox
from cambox.boxes import Boxes
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.config_file import load_config
from cambox.errors import RequestError
from cambox.output.footer import Recipe
from cambox.output.ledger import plan
from cambox.output.publish import publish, to_parquet
from cambox.output.rows import ClassScore, Row, table
from cambox.run import run
from cambox.sources.samples import ANY_IMAGE, read_samples
from cambox.sources.shards import Shard, find_shards
from cambox.verify.findings import Findings, Problem
from cambox.verify.statistics import check_statistics
from cambox.verify.verify import Verification, print_verification, verify
from makers import publish_rows, write_tar

Members = dict[str, bytes]
Rows = list[dict]


def read_tar(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A folder with two shards and the output that the pipeline made of them.

    The first shard has a sample of every status but too_large; the second has sound ones.
    """
    folder = tmp_path_factory.mktemp("made")
    images = [path.read_bytes() for path in sorted(pictures.glob("*.jpg"))]
    mixed: Members = {}
    for index in range(5):
        mixed |= {f"good-{index}.jpg": images[index], f"good-{index}.cls": b"%d 7" % index}
    mixed |= {"torn.jpg": images[5][:40], "torn.cls": b"1"}
    mixed |= {"bare.cls": b"1"}
    mixed |= {"unnamed.jpg": images[6]}
    write_tar(folder / "mixed.tar", mixed)
    sound: Members = {}
    for index in (7, 8, 9):
        sound |= {f"sound-{index}.jpg": images[index], f"sound-{index}.cls": b"%d" % index}
    write_tar(folder / "sound.tar", sound)
    document = {
        "input": {"shards": [str(folder / "*.tar")]},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 224},
        "cam": {"top_k": 3, "classes": "both"},
        # High and without a smallest area, so that maps have several boxes.
        "boxes": {"threshold": 0.7, "min_area": 0},
        "output": {"uri": str(folder / "out"), "store_maps": True},
        "engine": {"cpus_per_worker": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    summary = run(load_config(folder / "config.yaml"), Console(file=io.StringIO()))
    assert summary.complete
    rows = pq.read_table(file_of(Path(summary.folder), "mixed")).to_pylist()
    assert {box["component"] for row in rows for box in row["objects"]} >= {0, 1, 2}
    return folder


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A recipe's folder of its own to damage; its footers point at the shards of ``made``."""
    (folder,) = (made / "out").glob("[0-9a-f]*")
    return Path(shutil.copytree(folder, tmp_path / "out" / folder.name))


def file_of(output: Path, shard: str) -> Path:
    (path,) = output.glob(f"{shard}-*.parquet")
    return path


def rewrite(path: Path, table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> None:
    kept = pq.read_metadata(path).metadata
    entries = {key: value for key, value in kept.items() if key.startswith(b"cambox.")}
    path.write_bytes(to_parquet(table.replace_schema_metadata(entries | (metadata or {}))))


def change_rows(path: Path, change: Callable[[Rows], object]) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    before = json.dumps(rows, default=repr)
    change(rows)
    assert json.dumps(rows, default=repr) != before
    rewrite(path, pa.Table.from_pylist(rows, schema=table.schema))


def the_problem(verification: Verification, path: Path, kind: str) -> Problem:
    """The one problem that there is, of one file and one kind."""
    assert [(problem.file, problem.kind) for problem in verification.problems] == [
        (str(path), kind)
    ], verification.problems
    assert "\n" not in verification.problems[0].what
    assert not verification.ok
    return verification.problems[0]


@pytest.mark.parametrize("where", ["root", "recipe", "memory"])
def test_a_sound_output_passes_with_its_counts(output: Path, where: str) -> None:
    uri = {"root": str(output.parent), "recipe": str(output), "memory": "memory://sound/out"}[where]
    if where == "memory":
        for path in output.iterdir():
            fsspec.filesystem("memory").pipe_file(
                f"/sound/out/{output.name}/{path.name}", path.read_bytes()
            )
    files: list[int] = []
    verification = verify(uri, against_input=True, on_file=files.append)
    assert verification.problems == ()
    assert verification.ok
    assert (verification.files, verification.rows, files) == (2, 11, [2, 2])
    assert verification.statuses == {"ok": 8, "unreadable": 1, "no_image": 1, "no_label": 1}
    assert verification.remarks == ()


def first_with_objects(rows: Rows) -> dict:
    return next(row for row in rows if row["objects"])


def boxes(**changes: object) -> Callable[[Rows], object]:
    return lambda rows: first_with_objects(rows)["objects"][0].update(changes)


def box_from(change: Callable[[dict, dict], dict]) -> Callable[[Rows], object]:
    def apply(rows: Rows) -> None:
        row = first_with_objects(rows)
        row["objects"][0].update(change(row, row["objects"][0]))

    return apply


def row_where(status: str, /, **changes: object) -> Callable[[Rows], object]:
    return lambda rows: next(row for row in rows if row["status"] == status).update(changes)


def entry(column: str, place: int = 0, **changes: object) -> Callable[[Rows], object]:
    return lambda rows: rows[0][column][place].update(changes)


def lend(column: str) -> Callable[[Rows], object]:
    """An image that was not decoded gets what belongs to another."""

    def apply(rows: Rows) -> None:
        donor = next(row for row in rows if row["status"] == "ok")
        torn = next(row for row in rows if row["status"] == "unreadable")
        torn[column] = donor[column]
        if column != "classes":
            torn["labels"] = donor["labels"]
            torn[column] = [one for one in donor[column] if one["rank"] == 0]

    return apply


def of_several(change: Callable[[list[dict]], object]) -> Callable[[Rows], object]:
    """Change the boxes of a class that has three in its image."""

    def apply(rows: Rows) -> None:
        for row in rows:
            for box in row["objects"]:
                boxes = [other for other in row["objects"] if other["rank"] == box["rank"]]
                boxes = [other for other in boxes if other["class_id"] == box["class_id"]]
                if len(boxes) == 3:
                    change(boxes)
                    return

    return apply


def lose(component: int) -> Callable[[Rows], object]:
    def apply(rows: Rows) -> None:
        def forget(boxes: list[dict]) -> None:
            (lost,) = [box for box in boxes if box["component"] == component]
            (row,) = [row for row in rows if any(box is lost for box in row["objects"])]
            row["objects"] = [box for box in row["objects"] if box is not lost]

        of_several(forget)(rows)

    return apply


def unknown_class(rows: Rows) -> None:
    """All of one image's boxes of one class: one alone would leave a hole in the components."""
    row = first_with_objects(rows)
    group = row["objects"][0]["class_id"]
    for box in row["objects"]:
        if box["class_id"] == group:
            box["class_id"] = 10


NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("shard", lambda rows: rows[2].update(shard="/elsewhere.tar"), "/elsewhere.tar"),
        ("sample_index", lambda rows: rows[7].update(sample_index=8), "sample_index 8"),
        ("sample_index", lambda rows: rows.pop(3), "and 3 more"),
        ("sample_index", lambda rows: rows.reverse(), "and 7 more"),
        ("key", lambda rows: rows[4].update(key=rows[0]["key"]), "sample 4 ('good-0')"),
        ("status", row_where("ok", status="fine", error=None), "fine is unknown"),
        ("error", row_where("ok", error="odd"), "ok with the error odd"),
        ("error", row_where("unreadable", error=None), "unreadable with the error None"),
        ("size", row_where("ok", width=None), "ok with the size None"),
        ("size", row_where("ok", height=None), "x None"),
        ("size", row_where("no_label", height=0), "x 0"),
        ("size", row_where("unreadable", width=5), "unreadable with the size 5"),
        ("size", row_where("no_image", height=5), "no_image with the size None x 5"),
        ("status", lend("classes"), "unreadable with classes"),
        ("status", lend("objects"), "unreadable with objects"),
        ("status", lend("maps"), "unreadable with maps"),
        ("class", lambda rows: rows[5].update(labels=[10]), "class 10"),
        ("class", lambda rows: rows[5].update(labels=[-1]), "class -1"),
        ("class", unknown_class, "class 10"),
        ("class", boxes(class_name="dog"), "is dog"),
        ("null", lambda rows: rows[5].update(labels=[None]), "labels"),
        ("null", entry("classes", 2, probability=None), "classes"),
        ("null", lambda rows: rows[0]["objects"].append(None), "objects"),
        ("null", lambda rows: rows[0]["maps"].append(None), "maps"),
        ("rank", entry("classes", 1, rank=3), "rank 3 in place 2"),
        ("rank", entry("maps", 0, rank=4), "maps: class"),
        ("rank", entry("maps", 0, rank=-1), "rank -1"),
        ("probability", entry("classes", 0, probability=1.5), "not within 0..1"),
        ("probability", entry("classes", 2, probability=-0.1), "not within 0..1"),
        ("probability", entry("classes", 1, probability=NAN), "nan"),
        ("probability", entry("classes", 2, probability=0.99), "which is less"),
        ("score", boxes(class_score=1.01), "class_score 1.0"),
        ("score", boxes(box_score=-0.01), "box_score -0.0"),
        ("score", boxes(box_score=NAN), "box_score nan"),
        ("box", boxes(x_min=-0.5), "x_min -0.5"),
        ("box", boxes(y_min=-0.5), "y_min -0.5"),
        ("box", boxes(x_max=NAN), "x_max nan"),
        ("box", box_from(lambda row, box: {"x_max": box["x_min"]}), "in a width of"),
        ("box", box_from(lambda row, box: {"y_min": box["y_max"]}), "in a height of"),
        ("box", box_from(lambda row, box: {"x_max": row["width"] + 0.01}), "in a width of"),
        ("box", box_from(lambda row, box: {"y_max": row["height"] + 0.01}), "in a height of"),
        ("component", lose(0), "component 1 where 0 is missing"),
        ("component", lose(1), "component 2 where 1 is missing"),
        (
            "component",
            of_several(lambda boxes: boxes[1].update(component=0)),
            "component 0 where 1 is missing",
        ),
        ("map", entry("maps", 0, values=b"123"), "3 bytes for"),
        ("map", entry("maps", 0, height=0, values=b""), "0 bytes for 0 x"),
        ("map", entry("maps", 0, low=5.0, high=4.0), "low 5.0, high 4.0"),
        ("map", entry("maps", 0, high=NAN), "high nan"),
    ],
)
def test_a_row_that_breaks_the_contract_is_found(
    output: Path, kind: str, change: Callable[[Rows], object], says: str
) -> None:
    path = file_of(output, "mixed")
    change_rows(path, change)
    assert says in the_problem(verify(str(output)), path, kind).what


def other_rank(of_a_label: bool, rank: int) -> Callable[[Rows], object]:
    """All boxes of one class of one image get another rank."""

    def apply(rows: Rows) -> None:
        row, chosen = next(
            (row, box)
            for row in rows
            for box in row["objects"]
            if row["labels"] and (box["rank"] == 0) == of_a_label
        )
        for box in row["objects"]:
            if box["class_id"] == chosen["class_id"]:
                box["rank"] = rank

    return apply


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_rank(False, 0), "with rank 0, which labels do not say"),
        (other_rank(True, 4), "with rank 4, which classes do not say"),
    ],
)
def test_rank_zero_is_for_labels_and_other_ranks_for_the_models_classes(
    output: Path, change: Callable[[Rows], object], says: str
) -> None:
    path = file_of(output, "mixed")
    change_rows(path, change)
    assert says in the_problem(verify(str(output)), path, "rank").what


def test_the_problems_of_one_kind_are_one_line_with_a_count(output: Path) -> None:
    path = file_of(output, "sound")
    change_rows(path, lambda rows: [row.update(shard="/x.tar") for row in rows])
    assert the_problem(verify(str(output)), path, "shard").what.endswith("(and 2 more)")


def reorder(table: pa.Table) -> pa.Table:
    return table.select([*table.column_names[1:], "key"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.drop_columns(["width"]), "column width is missing"),
        (lambda table: table.drop_columns(["maps"]), "column maps is missing"),
        (lambda table: table.append_column("more", table["key"]), "more is not in the contract"),
        (lambda table: table.append_column("key", table["key"]), "key is there twice"),
        (reorder, "order"),
        (
            lambda table: table.set_column(
                2,
                pa.field("sample_index", pa.int64(), nullable=False),
                table["sample_index"].cast(pa.int64()),
            ),
            "sample_index: int64",
        ),
        (lambda table: table.set_column(0, pa.field("key", pa.string()), table["key"]), "key"),
    ],
)
def test_another_schema_is_found(
    output: Path, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    path = file_of(output, "mixed")
    rewrite(path, change(pq.read_table(path)))
    assert says in the_problem(verify(str(output)), path, "schema").what


@pytest.mark.parametrize(
    ("metadata", "kind", "says"),
    [
        ({b"cambox.schema_version": b"2"}, "footer", "schema_version 2 is unknown"),
        ({b"cambox.schema_version": b"one"}, "footer", "does not parse"),
        ({b"cambox.shard": b"{}"}, "footer", "does not parse"),
        ({b"cambox.shard": b"[1]"}, "footer", "does not parse"),
        ({b"cambox.classes": b"[1, 2]"}, "footer", "wrong type"),
        ({b"cambox.versions": b"7"}, "footer", "wrong type"),
        ({b"cambox.recipe_digest": b"0" * 64}, "recipe", "not the digest of the recipe"),
    ],
)
def test_a_footer_that_is_not_complete_or_not_true_is_found(
    output: Path, metadata: dict[bytes, bytes], kind: str, says: str
) -> None:
    path = file_of(output, "mixed")
    rewrite(path, pq.read_table(path), metadata)
    assert says in the_problem(verify(str(output)), path, kind).what


@pytest.mark.parametrize(
    "entry", ["schema_version", "recipe", "recipe_digest", "shard", "classes", "versions", "data"]
)
def test_a_missing_entry_of_the_footer_is_found(output: Path, entry: str) -> None:
    path = file_of(output, "mixed")
    kept = dict(pq.read_metadata(path).metadata)
    del kept[f"cambox.{entry}".encode()]
    pq.write_table(pq.read_table(path).replace_schema_metadata(kept), path)
    assert f"cambox.{entry} is missing" in the_problem(verify(str(output)), path, "footer").what


def test_a_recipe_that_was_edited_is_found(output: Path) -> None:
    path = file_of(output, "mixed")
    recipe = json.loads(pq.read_metadata(path).metadata[b"cambox.recipe"])
    recipe["boxes"]["threshold"] = 0.9
    edited = {b"cambox.recipe": json.dumps(recipe, sort_keys=True).encode()}
    rewrite(path, pq.read_table(path), edited)
    assert "not the digest" in the_problem(verify(str(output)), path, "recipe").what


def test_a_file_of_another_recipe_is_found(output: Path, made: Path, tmp_path: Path) -> None:
    """By its digest: it is moved there whole from another run's folder."""
    other = load_config(
        made / "config.yaml",
        ["cam.top_k=2", f"output.uri={tmp_path}/two", f"input.shards={made}/sound.tar"],
    )
    summary = run(other, Console(file=io.StringIO()))
    (stranger,) = Path(summary.folder).iterdir()
    path = output / stranger.name
    stranger.replace(path)
    problem = the_problem(verify(str(output)), path, "recipe")
    assert Path(summary.folder).name in problem.what
    assert output.name in problem.what


ROW = Row(
    key="a",
    shard="",
    sample_index=0,
    status="ok",
    error=None,
    width=40,
    height=30,
    labels=(0,),
    classes=(ClassScore(0, 1, 0.75),),
)
BOX = Boxes.of([[1.5, 2, 39.5, 30]], class_id=0, class_score=0.75, score=0.5, touches_edge=True)


def publish_one(shard: Shard, recipe: Recipe, settings: OutputSettings) -> str:
    row = replace(ROW, shard=shard.uri)
    return publish(table([row], BOX, recipe.class_names, False), shard, recipe, settings)


def test_two_class_lists_with_one_digest_are_found(tmp_path: Path) -> None:
    """The digest joins the names with line ends, so two lists can share it."""
    digest = hashlib.sha256(b"{}\ncat\ndog\nfish").hexdigest()
    one = Recipe("{}", ("cat", "dog", "fish"), digest)
    other = Recipe("{}", ("cat", "dog\nfish"), digest)
    settings = OutputSettings(uri=str(tmp_path / "out"))
    paths = []
    for number, recipe in enumerate((one, one, other)):
        shard = Shard(f"/data/{number}.tar", 10, "x")
        paths.append(publish_one(shard, recipe, settings))
    problem = the_problem(verify(settings.uri), Path(paths[2]), "recipe")
    assert "class list is not that of" in problem.what


def test_another_name_is_found(output: Path) -> None:
    path = file_of(output, "mixed")
    name = path.name
    renamed = path.rename(output / "mixed-0123456789abcdef.parquet")
    assert name in the_problem(verify(str(output)), renamed, "name").what


def test_a_file_in_a_sub_folder_is_found(output: Path) -> None:
    path = file_of(output, "mixed")
    (output / "old").mkdir()
    moved = path.rename(output / "old" / path.name)
    the_problem(verify(str(output)), moved, "name")


@pytest.mark.parametrize("copy", ["aaa.parquet", "zzz.parquet", "old/same-name"])
def test_two_files_from_one_shard_are_found(output: Path, copy: str) -> None:
    path = file_of(output, "mixed")
    second = output / copy.replace("same-name", path.name)
    second.parent.mkdir(exist_ok=True)
    shutil.copy(path, second)
    assert path.name in the_problem(verify(str(output)), second, "duplicate").what


def test_a_leftover_of_publishing_is_found(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by our own publisher, ended between writing and renaming as by a power cut."""
    before = set(output.iterdir())

    def ends(*_: object, **__: object) -> None:
        raise SystemExit

    recipe = Recipe("{}", ("cat",), output.name + "0" * 48)
    shard, settings = Shard("/data/new.tar", 10, "x"), OutputSettings(uri=str(output.parent))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", ends)
        patch.setattr(Path, "unlink", ends)
        with pytest.raises(SystemExit):
            publish_one(shard, recipe, settings)
    (left,) = set(output.iterdir()) - before
    assert left.name[0] in "._"
    assert "delete it" in the_problem(verify(str(output)), left, "leftover").what
    for name in (".DS_Store", "_SUCCESS", "._mixed.parquet"):
        (output / name).write_bytes(b"")
    the_problem(verify(str(output.parent)), left, "leftover")


def test_a_visible_file_that_is_no_parquet_is_found(output: Path) -> None:
    (output / "notes.txt").write_text("mine")
    the_problem(verify(str(output)), output / "notes.txt", "foreign")


def test_mixed_versions_are_a_remark_and_no_problem(output: Path) -> None:
    path = file_of(output, "mixed")
    versions = json.loads(pq.read_metadata(path).metadata[b"cambox.versions"])
    entry = {b"cambox.versions": json.dumps(versions | {"timm": "0.0.1"}).encode()}
    rewrite(path, pq.read_table(path), entry)
    verification = verify(str(output))
    assert verification.ok
    (remark,) = verification.remarks
    assert "mixed versions of timm: 0.0.1 in 1 file" in remark


def test_a_file_cut_anywhere_never_passes(output: Path) -> None:
    path = file_of(output, "sound")
    whole = path.read_bytes()
    assert len(whole) > 2000
    for length in {*range(0, len(whole), 61), *range(len(whole) - 12, len(whole))}:
        path.write_bytes(whole[:length])
        the_problem(verify(str(output)), path, "unreadable")
    path.write_bytes(whole)
    assert verify(str(output)).ok


def test_a_changed_byte_before_the_footer_is_found(output: Path) -> None:
    """Also in the headers of pages, which Parquet's own checksums leave out."""
    path = file_of(output, "sound")
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(0, footer, 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        the_problem(verify(str(output)), path, "unreadable")


def test_text_that_is_not_utf8_is_found(output: Path) -> None:
    path = file_of(output, "sound")
    table = pq.read_table(path)
    offsets = pa.array([0, 1, 2, 3], pa.int32()).buffers()[1]
    keys = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"a\xffc"))
    rewrite(path, table.set_column(0, table.schema.field("key"), keys))
    assert "UTF8" in the_problem(verify(str(output)), path, "unreadable").what


def test_a_flipped_bit_is_found_or_changes_no_row(output: Path) -> None:
    """Anywhere in the file: what passes lies in statistics, or where nobody reads."""
    path = file_of(output, "mixed")
    whole = path.read_bytes()
    rows = pq.read_table(path)
    generator = random.Random(0)
    found = 0
    for _ in range(400):
        at = generator.randrange(len(whole))
        flipped = whole[at] ^ 1 << generator.randrange(8)
        path.write_bytes(whole[:at] + bytes([flipped]) + whole[at + 1 :])
        if verify(str(output)).ok:
            assert pq.read_table(path).equals(rows), at
        else:
            found += 1
    assert found > 100


def test_an_unreadable_file_hides_no_other_and_is_counted(output: Path) -> None:
    file_of(output, "mixed").write_bytes(b"")
    verification = verify(str(output))
    the_problem(verification, file_of(output, "mixed"), "unreadable")
    assert (verification.files, verification.rows) == (2, 3)
    assert verification.statuses == {"ok": 3}


@pytest.fixture
def own_input(made: Path, output: Path) -> Path:
    """The shard of the file ``sound``, to be changed and put back."""
    path = made / "sound.tar"
    kept = path.with_suffix(".kept")
    shutil.copy2(path, kept)
    yield path
    kept.replace(path)


def test_a_shard_that_changed_or_is_gone_is_found(output: Path, own_input: Path) -> None:
    path = file_of(output, "sound")
    stat = own_input.stat()
    os.utime(own_input, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    problem = the_problem(verify(str(output), against_input=True), path, "input changed")
    assert f"{stat.st_size} modified=" in problem.what

    own_input.write_bytes(own_input.read_bytes()[:1000])
    problems = verify(str(output), against_input=True).problems
    assert [problem.kind for problem in problems] == ["input changed", "input unreadable"]

    own_input.unlink()
    problem = the_problem(verify(str(output), against_input=True), path, "input gone")
    assert str(own_input) in problem.what
    assert verify(str(output)).ok


def test_rows_that_are_not_the_shards_samples_are_found(output: Path, own_input: Path) -> None:
    """The same size and time, so that only reading the shard tells."""
    path = file_of(output, "sound")
    stat = own_input.stat()
    members = read_tar(own_input)
    samples = [list(members.items())[at : at + 2] for at in (0, 2, 4)]

    def found(*parts: list[tuple[str, bytes]]) -> str:
        write_tar(own_input, dict(pair for part in parts for pair in part))
        with own_input.open("r+b") as file:
            file.truncate(stat.st_size)
        os.utime(own_input, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return the_problem(verify(str(output), against_input=True), path, "input samples").what

    swapped = found(samples[1], samples[0], samples[2])
    assert "sample 0" in swapped
    assert "'sound-8'" in swapped
    assert "'sound-7'" in swapped
    assert "has 2 samples, the file 3 rows" in found(samples[0], samples[1])
    renamed = [(name.replace("9", "5"), data) for name, data in samples[2]]
    assert "'sound-5'" in found(samples[0], samples[1], renamed)
    image = [("x.jpg", samples[2][0][1][:100])]
    assert "has 4 samples" in found(samples[0], samples[1], [("sound-9.cls", b"9")], image)


def test_of_a_shard_known_by_its_content_only_the_content_counts(
    output: Path, own_input: Path
) -> None:
    """With input.fingerprint: content; what a store says of the shard is something else."""
    path = file_of(output, "sound")
    data = own_input.read_bytes()
    content = f"sha256={hashlib.sha256(data).hexdigest()}"
    shard = json.loads(pq.read_metadata(path).metadata[b"cambox.shard"]) | {"fingerprint": content}
    rewrite(path, pq.read_table(path), {b"cambox.shard": json.dumps(shard).encode()})
    os.utime(own_input, ns=(1, 1))
    verification = verify(str(output), against_input=True)
    assert verification.ok, verification.problems

    image = read_tar(own_input)["sound-8.jpg"]
    assert data.count(image) == 1
    own_input.write_bytes(data.replace(image, image[::-1]))
    problem = the_problem(verify(str(output), against_input=True), path, "input changed")
    assert content in problem.what

    own_input.write_bytes(data[:-512])
    problem = the_problem(verify(str(output), against_input=True), path, "input changed")
    assert content in problem.what


def test_a_sample_that_was_annotated_is_not_too_large_to_be_verified(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run may have raised input.max_sample_bytes, which no file says."""
    monkeypatch.setattr("cambox.sources.samples.DEFAULT_MAX_SAMPLE_BYTES", 1000)
    monkeypatch.setattr(read_samples, "__defaults__", (None, None, 1000, ANY_IMAGE))
    verification = verify(str(output), against_input=True)
    assert verification.ok, verification.problems


@pytest.mark.parametrize("what", ["missing", "empty", "other", "file"])
def test_what_is_no_output_is_a_wrong_request(tmp_path: Path, output: Path, what: str) -> None:
    places = {
        "missing": tmp_path / "nowhere",
        "empty": tmp_path / "empty",
        "other": tmp_path / "other",
        "file": file_of(output, "mixed"),
    }
    places["empty"].mkdir()
    places["other"].mkdir()
    Image.new("RGB", (4, 4)).save(places["other"] / "picture.png")
    with pytest.raises(RequestError, match=str(places[what])):
        verify(str(places[what]))


def test_files_beside_the_recipes_folders_are_not_passed_over(output: Path) -> None:
    stray = output.parent / file_of(output, "mixed").name
    shutil.copy(file_of(output, "mixed"), stray)
    verification = verify(str(output.parent))
    assert verification.files == 3
    assert "lies in out" in the_problem(verification, stray, "recipe").what


def test_the_command_says_how_it_stands(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cambox_verify(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cambox", "verify", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    code, text, _ = cambox_verify(str(output.parent), "--against-input")
    assert code == 0
    expected = "2 files, 11 rows (no_image 1, no_label 1, ok 8, unreadable 1): all is as promised"
    assert text.splitlines() == [expected]

    path = file_of(output, "mixed")
    change_rows(path, boxes(x_min=-0.5))
    code, text, _ = cambox_verify(str(output))
    assert code == 1
    assert f"{path}: box: sample 0 ('good-0')" in text
    assert "1 problem in 1 file" in text

    code, text, _ = cambox_verify(str(output), "--json")
    assert code == 1
    document = json.loads(text)
    assert (document["ok"], document["files"], document["rows"]) == (False, 2, 11)
    assert document["statuses"]["ok"] == 8
    assert document["problems"][0]["file"] == str(path)
    assert document["problems"][0]["what"].startswith("box: ")
    assert document["remarks"] == []

    code, text, errors = cambox_verify(str(output / "nowhere"), "--json")
    assert (code, text) == (2, "")
    assert len(errors.strip().splitlines()) == 1
    assert f"{output}/nowhere does not exist" in errors


def test_a_long_list_is_cut_kind_by_kind() -> None:
    problems = [Problem(f"f{number}", "box: [bad]") for number in range(25)]
    text = io.StringIO()
    verification = Verification(26, 3, {"ok": 3}, (*problems, Problem("g", "key: twice")), ("odd",))
    print_verification(verification, Console(file=text, width=40))
    lines = text.getvalue().splitlines()
    assert lines.count("f3: box: [bad]") == 1
    assert len([line for line in lines if "[bad]" in line]) == 20
    assert lines[20:] == [
        "... and 5 more files: box",
        "g: key: twice",
        "remark: odd",
        "26 files, 3 rows (ok 3): 26 problems in 26 files",
    ]


def test_a_footer_whose_statistics_are_not_of_its_rows_is_found() -> None:
    """By its footer no row has the status of any, so who asks for one gets none."""

    def written(status: list[str], width: list[int | None]) -> tuple[bytes, bytes]:
        buffer = io.BytesIO()
        rows = pa.table({"status": status, "width": pa.array(width, pa.int32())})
        pq.write_table(rows, buffer, compression="none", use_dictionary=False)
        footer = pq.read_metadata(buffer).serialized_size + 8
        return buffer.getvalue()[:-footer], buffer.getvalue()[-footer:]

    def found(data: bytes) -> list[str]:
        findings = Findings("file")
        check_statistics(data, pq.ParquetFile(pa.BufferReader(data)), findings)
        return [problem.what.split(" of ")[0] for problem in findings.problems()]

    rows, footer = written(["ok", "ok"], [5, 6])
    assert found(rows + footer) == []
    for status, width, wrong in (
        (["oj", "oj"], [5, 6], ["statistics: status"]),
        (["ok", "ol"], [5, 6], []),  # true enough: no filter loses a row
        (["ok", "ok"], [7, 8], ["statistics: width"]),
        (["ol", "ol"], [0, 1], ["statistics: status"]),
    ):
        others, other_footer = written(status, width)
        assert len(others) == len(rows)
        assert found(rows + other_footer) == wrong


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_called_a_file_and_is_none_is_reported(tmp_path: Path) -> None:
    made = publish_rows(tmp_path)
    shards = find_shards([str(path) for path in made.shards])
    first, second, third = sorted(made.folder.glob("*.parquet"))
    first.unlink()
    os.mkfifo(first)
    second.unlink()
    second.symlink_to("nowhere")
    third.unlink()
    third.mkdir()
    problems = {problem.file: problem.what for problem in verify(str(made.output)).problems}
    for path in (first, second, third):
        assert "is not a regular file; move it out of the folder" in problems[str(path)]
    work = plan(shards, made.recipe, OutputSettings(uri=str(made.output)))
    assert [len(work.new), len(work.changed), len(work.done)] == [0, 3, 0]
    with pytest.raises(RequestError, match="not a regular file"):
        cambox.read(str(made.output))
