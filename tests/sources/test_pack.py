"""A folder of images becomes shards that read back as the same images and classes."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import pytest
import webdataset
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from cambox.cli import app
from cambox.errors import RequestError
from cambox.sources.labels import read_labels
from cambox.sources.pack import PackReport, pack
from cambox.sources.samples import Sample, read_samples
from cambox.sources.shards import find_shards
from cambox.sources.webdataset_io import TarWriter
from makers import SHARED

PHOTOS = SHARED / "data" / "photos-300"


def folder_of(root: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".txt", ""):
            path.write_bytes(b"no image")
        else:
            Image.new("RGB", (8, 8), (index, 0, 0)).save(path)
    return root


def read_back(destination: Path) -> list[Sample]:
    shards = find_shards([f"{destination}/shard-*.tar"])
    return [sample for shard in shards for sample in read_samples(shard)]


def digests(destination: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(destination.iterdir())
    }


def test_a_flat_folder(tmp_path: Path) -> None:
    images = folder_of(
        tmp_path / "in", "b.JPG", "a.b.png", "é x.Jpeg", "note.txt", ".h.png", "._a.jpg"
    )
    calls: list[int] = []
    report = pack(images, tmp_path / "out" / "deep", on_sample=lambda: calls.append(1))
    skipped = {"hidden": ["._a.jpg", ".h.png"], ".txt": ["note.txt"]}
    assert report == PackReport(1, 3, unlabelled=3, skipped=skipped, faults={}, notes={})
    assert len(calls) == 3
    samples = read_back(tmp_path / "out" / "deep")
    assert [(sample.key, sorted(sample.members)) for sample in samples] == [
        ("a_b", ["png"]),
        ("b", ["jpg"]),
        ("é x", ["jpeg"]),
    ]
    assert samples[1].members["jpg"] == (images / "b.JPG").read_bytes()
    assert list(digests(tmp_path / "out" / "deep")) == ["shard-000000.tar"]


def test_folders_are_classes(tmp_path: Path) -> None:
    images = folder_of(
        tmp_path / "in", "dog/1.png", "cat/1.png", "dog/v1.2/../2.png", "ant.eater/x.png"
    )
    (images / "dog" / "v1.2").rmdir()
    report = pack(images, tmp_path / "out", samples_per_shard=3)
    assert report == PackReport(2, 4, unlabelled=0, skipped={}, faults={}, notes={})
    labels = {sample.key: sample.members["cls"] for sample in read_back(tmp_path / "out")}
    assert labels == {"ant_eater/x": b"0", "cat/1": b"1", "dog/1": b"2", "dog/2": b"2"}
    names = (tmp_path / "out" / "class_names.txt").read_text().splitlines()
    assert names == ["ant.eater", "cat", "dog"]


@pytest.mark.parametrize("names", [("a.png", "dog/1.png"), ("x/dog/1.png", "x/cat/1.png")])
def test_other_layouts_have_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    report = pack(folder_of(tmp_path / "in", *names), tmp_path / "out")
    assert report.unlabelled == report.samples == len(names)
    assert not (tmp_path / "out" / "class_names.txt").exists()
    what = "are not directly in a folder, so folders are not taken for classes"
    assert report.notes == {what: [name for name in sorted(names) if name.count("/") != 1]}
    assert not report.faults


def test_stray_pictures_beside_class_folders_leave_the_others_their_labels(tmp_path: Path) -> None:
    images = folder_of(
        tmp_path / "in", "cat/1.png", "dog/1.png", "dog/2.png", "dog/x/3.png", "s.png"
    )
    report = pack(images, tmp_path / "out")
    what = "are not directly in a class folder and have no label; move them"
    assert report.faults == {what: ["dog/x/3.png", "s.png"]}
    labels = {sample.key: sample.members.get("cls") for sample in read_back(tmp_path / "out")}
    assert labels == {"cat/1": b"0", "dog/1": b"1", "dog/2": b"1", "dog/x/3": None, "s": None}


def test_a_class_without_images_would_shift_the_others(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", "ant/a.png", "cat/note.txt", "dog/d.png")
    with pytest.raises(RequestError, match="cat: a class folder without images"):
        pack(images, tmp_path / "out")
    (tmp_path / "labels.csv").write_text("image,class_index\nant/a,7\n")
    assert pack(images, tmp_path / "out", tmp_path / "labels.csv").unlabelled == 1


def test_the_destination_may_be_inside(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", "ant/a.png", "dog/d.png")
    folder_of(images / "packed", "left-over.png")
    assert pack(images, images / "packed").samples == 2
    assert (images / "packed" / "class_names.txt").read_text() == "ant\ndog\n"


def test_csv_labels(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", "a/x.1.png", "b.png", "c.png", "d.png")
    csv = tmp_path / "labels.csv"
    csv.write_text(
        "\ufeffwidth, class_index,image\r\n1,5,a/x.1\r\n\r\n1,2,./a/x.1.png\r\n1,5,a/x.1.png\r\n"
        '1, 0 ,b.png\r\n1,12,"c.png"\r\n'
    )
    report = pack(images, tmp_path / "out", csv)
    faults = {f"have no line in {csv} and so no label; add one": ["d.png"]}
    assert report == PackReport(1, 4, unlabelled=1, skipped={}, faults=faults, notes={})
    labels = {
        sample.key: read_labels(sample.members, "cls") for sample in read_back(tmp_path / "out")
    }
    assert labels == {"a/x_1": (5, 2), "b": (0,), "c": (12,), "d": None}
    assert not (tmp_path / "out" / "class_names.txt").exists()


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        # By name: sorted, and several of one image.
        (
            "image,class_name\na,dog\nb, cat \na,bee\n",
            {"a": (2, 0), "b": (1,), "c": None},
            ["bee", "cat", "dog"],
        ),
        # By index, with names beside them; those of a class without images are not known.
        (
            "image,class_index,class_name\na,1,dog\nb,0,cat\n",
            {"a": (1,), "b": (0,)},
            ["cat", "dog"],
        ),
        ("image,class_index,class_name\na,2,dog\nb,0,cat\n", {"a": (2,), "b": (0,)}, None),
        ("image,class_index,class_name\na,0,dog\nb,0,cat\n", {"a": (0,), "b": (0,)}, None),
    ],
)
def test_a_csv_may_name_the_classes(
    tmp_path: Path,
    text: str,
    labels: dict[str, tuple[int, ...] | None],
    names: list[str] | None,
) -> None:
    images = folder_of(tmp_path / "in", *(f"{key}.png" for key in labels))
    (tmp_path / "labels.csv").write_text(text)
    pack(images, tmp_path / "out", tmp_path / "labels.csv")
    read = {s.key: read_labels(s.members, "cls") for s in read_back(tmp_path / "out")}
    assert read == labels
    written = tmp_path / "out" / "class_names.txt"
    assert (written.read_text().splitlines() if written.exists() else None) == names


def test_classes_are_numbered_by_the_list_of_a_classifier(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", "dog/1.png", "bee/2.png")
    known = tmp_path / "names.txt"
    known.write_text("ant\nbee\ncat\ndog\n")
    pack(images, tmp_path / "out", class_names=known)
    read = {s.key: s.members["cls"] for s in read_back(tmp_path / "out")}
    assert read == {"dog/1": b"3", "bee/2": b"1"}
    assert (tmp_path / "out" / "class_names.txt").read_text() == known.read_text()
    known.write_text("ant\nbees\ndog\n")
    with pytest.raises(RequestError, match=r"--class-names: the file has no class 'bee'; .* bees"):
        pack(images, tmp_path / "out2", class_names=known)
    (tmp_path / "labels.csv").write_text("image,class_index\ndog/1,3\n")
    with pytest.raises(RequestError, match="--class-names: the file has 3 classes, and a label is"):
        pack(images, tmp_path / "out2", tmp_path / "labels.csv", class_names=known)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na,1\n", "line 1: no column 'class_index'; it needs image,class_index or"),
        ("image,class_name\na,dog\na, \n", "line 3: the class has no name"),
        ("class_name\ndog\n", "line 1: no column 'image'"),
        ("", "line 1: no column 'image'"),
        ("image,class_index\na.png,cat\n", "line 2: 'cat' is no class index"),
        ("image,class_index\na.png,-1\n", "line 2: '-1' is no class index"),
        ("image,class_index\na.png,1.0\n", "line 2: '1.0' is no class index"),
        ("image,class_index\na.png\n", "line 2: '' is no class index"),
        ("image,class_index\na.png,2147483648\n", "line 2: class 2147483648 is too large"),
        ("image,class_index\n,1\n", "line 2: no image is named"),
    ],
)
def test_csv_mistakes_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    images = folder_of(tmp_path / "in", "a.png")
    csv = tmp_path / "labels.csv"
    csv.write_text(text)
    with pytest.raises(RequestError) as caught:
        pack(images, tmp_path / "out", csv)
    assert f"--labels: {csv}, {message}" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_csv_may_spell_names_in_the_other_unicode_form(tmp_path: Path) -> None:
    composed, two_characters = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    images = folder_of(tmp_path / "in", f"{composed}1.png", f"{two_characters}2.png")
    csv = tmp_path / "labels.csv"
    csv.write_text(f"image,class_index\n./{two_characters}1,4\n{composed}2.png,5\n", "utf-8")
    report = pack(images, tmp_path / "out", csv)
    assert (report.unlabelled, report.notes, report.faults) == (0, {}, {})
    labels = {sample.key: sample.members["cls"] for sample in read_back(tmp_path / "out")}
    assert labels == {f"{composed}1": b"4", f"{two_characters}2": b"5"}


def test_a_csv_may_name_more_than_the_folder_has(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", "a.png")
    csv = tmp_path / "labels.csv"
    csv.write_text("image,class_index\nz.png,1\na,1\ny/y.png,2\nz.png,3\n")
    report = pack(images, tmp_path / "out", csv)
    assert report.notes == {f"are in {csv} and not in {images}": ["z.png", "y/y.png"]}
    assert (report.samples, report.unlabelled, report.faults) == (1, 0, {})
    csv.write_text("image,class_index\nin/a.png,1\n")
    with pytest.raises(RequestError, match=r"none of the images, but in/a\.png; .* such as a\.png"):
        pack(images, tmp_path / "out2", csv)


def test_a_csv_that_is_none(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", "a.png")
    with pytest.raises(RequestError, match=r"--labels: .*none\.csv does not exist"):
        pack(images, tmp_path / "out", tmp_path / "none.csv")
    for bad in (images, images / "a.png"):
        with pytest.raises(RequestError, match=r"is no UTF-8 CSV file"):
            pack(images, tmp_path / "out", bad)


@pytest.mark.parametrize(
    "names", [("a.jpg", "a.png"), ("a.b.png", "a_b.png"), ("x.y/1.png", "x_y/1.png")]
)
def test_two_images_with_one_key(tmp_path: Path, names: tuple[str, str]) -> None:
    images = folder_of(tmp_path / "in", *names, "z.png")
    report = pack(images, tmp_path / "out")
    what = "have the key of another and are left out; rename them"
    assert report.faults == {what: [f"{names[1]} (beside {names[0]})"]}
    first, other = read_back(tmp_path / "out")
    assert next(iter(first.members.values())) == (images / names[0]).read_bytes()
    assert (other.key, report.samples) == ("z", 2)


@pytest.mark.parametrize("name", ["__meta__.png", "__a__/1.png", "caf\udce9.png"])
def test_names_that_make_no_key(tmp_path: Path, name: str) -> None:
    images = folder_of(tmp_path / "in", "a.png")
    (images / name).parent.mkdir(exist_ok=True)
    (images / name).write_bytes((images / "a.png").read_bytes())
    report = pack(images, tmp_path / "out")
    ((what, found),) = report.faults.items()
    assert what.endswith("are left out; rename them")
    assert found == [name.replace("\udce9", r"\xe9")]
    assert [sample.key for sample in read_back(tmp_path / "out")] == ["a"]


def test_requests_that_can_not_be_met(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", "a.png")
    empty = folder_of(tmp_path / "empty", "note.txt")
    with pytest.raises(RequestError, match=r"empty: no images .*, but 1 \.txt$"):
        pack(empty, tmp_path / "out")
    with pytest.raises(RequestError, match=r"note\.txt/out cannot be written \(Not a directory\)"):
        pack(images, empty / "note.txt" / "out")
    with pytest.raises(RequestError, match="not a folder"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(RequestError, match="samples-per-shard: 0"):
        pack(images, tmp_path / "out", samples_per_shard=0)
    with pytest.raises(RequestError, match="is a file; name a folder"):
        pack(images, empty / "note.txt")
    pack(images, tmp_path / "out")
    before = digests(tmp_path / "out")
    with pytest.raises(RequestError, match="already holds shards; choose another folder or remove"):
        pack(images, tmp_path / "out")
    assert digests(tmp_path / "out") == before


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    other = folder_of(tmp_path / "other", "1.png")
    images = folder_of(tmp_path / "in", "dog/1.png")
    (images / "cat").symlink_to(other)
    assert pack(images, tmp_path / "out").samples == 2
    (images / "gone.png").symlink_to("nowhere")
    (images / "dog" / "loop").symlink_to(images)
    report = pack(images, tmp_path / "out2")
    assert report.faults == {
        "are broken links and left out; remove or restore them": ["gone.png"],
        "are links to a folder that they are in; remove them": [f"{images}/dog/loop"],
    }
    assert report.samples == 2


def test_a_file_that_cannot_be_read_is_left_out_and_a_full_disk_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = folder_of(tmp_path / "in", "a.png", "b.png")
    read_bytes = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path.name == "a.png":
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", broken)
    report = pack(images, tmp_path / "out")
    what = "cannot be read (Input/output error) and are left out"
    assert (report.samples, report.unlabelled, report.faults) == (1, 1, {what: ["a.png"]})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TarWriter, "write", full)
    with pytest.raises(RequestError, match=r"--to: .*out2 cannot be written \(No space left"):
        pack(images, tmp_path / "out2")
    assert list((tmp_path / "out2").iterdir()) == []


def test_the_command_names_five_and_ends_with_one_unless_told(tmp_path: Path) -> None:
    def packed(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["pack", str(images), "--to", *arguments])

    images = folder_of(tmp_path / "in", "a.jpg", "a.png", *(f"{n}.txt" for n in range(7)))
    first = packed(str(tmp_path / "out"))
    assert first.exit_code == 1
    out = first.output
    assert "skipped: 7 .txt: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more\n" in out
    assert "fault: 1 have the key of another and are left out; rename them: a.png (beside" in out
    assert "accept it with --skip-bad" in out
    assert packed(str(tmp_path / "out2"), "--skip-bad").exit_code == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "out2")


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    names = ("b/1.png", "a/2.png", f"a/{'long ' * 30}é.png", "c/3.png")
    one = folder_of(tmp_path / "one", *names)
    other = folder_of(tmp_path / "other", *reversed(names))
    for name in names:
        (other / name).write_bytes((one / name).read_bytes())
    pack(one, tmp_path / "out1", samples_per_shard=2)
    pack(other, tmp_path / "out2", samples_per_shard=2)
    assert digests(tmp_path / "out1") == digests(tmp_path / "out2")
    assert len(read_back(tmp_path / "out1")) == 4
    with tarfile.open(tmp_path / "out1" / "shard-000000.tar") as archive:
        headers = [(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in archive.getmembers()]
    assert set(headers) == {(0, 0, 0, "", 0o644)}


def test_nothing_is_visible_until_everything_is_written(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", *(f"{index}.png" for index in range(6)))
    out = tmp_path / "out"
    seen: list[list[Path]] = []

    def stop_at_the_fifth() -> None:
        seen.append(list(out.glob("[!.]*")))
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(images, out, samples_per_shard=2, on_sample=stop_at_the_fifth)
    assert seen == [[]] * 5
    assert list(out.iterdir()) == []
    (out / ".shard-000007.tar.tmp").write_bytes(b"left by a run that was killed")
    assert pack(images, out, samples_per_shard=2).shards == 3
    assert len(list(out.iterdir())) == 3


def test_webdataset_itself_reads_the_shards(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "in", *(f"k{index % 3}/{index}.png" for index in range(7)))
    pack(images, tmp_path / "out", samples_per_shard=3)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    read = {
        s["__key__"]: (s["png"], s["cls"]) for s in webdataset.WebDataset(urls, shardshuffle=False)
    }
    assert read == {
        f"k{index % 3}/{index}": (
            (images / f"k{index % 3}/{index}.png").read_bytes(),
            str(index % 3).encode(),
        )
        for index in range(7)
    }


def test_real_photographs(tmp_path: Path) -> None:
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is not here")
    report = pack(PHOTOS / "images", tmp_path, PHOTOS / "images.csv", samples_per_shard=128)
    assert report == PackReport(3, 300, unlabelled=0, skipped={}, faults={}, notes={})
    samples = read_back(tmp_path)
    assert samples[0].key == "n01443537_goldfish"
    assert read_labels(samples[0].members, "cls") == (1,)
    expected = {path.read_bytes() for path in (PHOTOS / "images").iterdir()}
    assert {sample.members["jpeg"] for sample in samples} == expected


def test_packing_waits_for_no_torch_and_leaves_webdataset_whole() -> None:
    code = (
        "import sys, cambox.sources.pack; assert 'torch' not in sys.modules; "
        "import webdataset, torch; "
        "assert issubclass(webdataset.WebDataset, torch.utils.data.IterableDataset)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
