"""Shards, images and settings that come from anywhere: nothing runs, nothing is written elsewhere,
and memory stays bounded.

Schemes that execute are refused in `test_sources_shards` and `test_cli`, checkpoints with code in
`test_models_build`, and declared sizes of tar members are checked in `test_sources_samples`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from cambox.config_file import load_config
from cambox.errors import RequestError
from cambox.output.publish import file_name, recipe_uri
from cambox.run import prepare, run
from conftest import ConfigMaker
from makers import ROOT, SHARED

QUIET = Console(file=io.StringIO())
MIB = 1 << 20


class Canary:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "executed")


def tar(path: Path, files: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def picture(kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    grain = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(grain).save(buffer, kind)
    return buffer.getvalue()


def everything_below(folder: Path) -> dict[Path, float]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize(
    "override",
    [
        "model.checkpoint=pipe:touch executed",
        "model.checkpoint=reference://executed.pth",
        "model.checkpoint=simplecache::file://executed.pth",
        "model.class_names=pipe:touch executed",
        "input.labels=pipe:touch executed",
        "output.uri=ssh://127.0.0.1/executed",
        "output.uri=simplecache::file://executed",
    ],
)
def test_a_setting_that_could_execute_is_refused(
    make_config: ConfigMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    override: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything_below(tmp_path)
    key = override.partition("=")[0]
    with pytest.raises(RequestError, match=rf"must never run a command|{key}: "):
        prepare(make_config(override), QUIET)
    assert everything_below(tmp_path).keys() - before.keys() <= {tmp_path / "config.yaml"}


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [executed]",
        "!!python/object/new:pathlib.Path [executed]",
        "!!python/name:os.system",
    ],
)
def test_yaml_makes_no_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config: ConfigMaker, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="not YAML"):
        make_config(f"cam.top_k={value}")
    (tmp_path / "evil.yaml").write_text(f"input: {value}\n")
    with pytest.raises(RequestError, match="not YAML"):
        load_config("evil.yaml")
    assert not (tmp_path / "executed").exists()


def test_pickled_members_stay_bytes_through_a_whole_run(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    evil = pickle.dumps(Canary(tmp_path / "executed"))
    array = io.BytesIO()
    np.save(array, np.array([Canary(tmp_path / "executed")], dtype=object), allow_pickle=True)
    suffixes = ("pkl", "pickle", "pyd", "pth", "pt", "cls", "json", "ten", "mp")
    members = [("a.jpg", picture()), *((f"a.{suffix}", evil) for suffix in suffixes)]
    members += [("a.npy", array.getvalue()), ("b.jpg", evil), ("c.png", array.getvalue())]
    tar(tmp_path / "evil.tar", members)
    for labels in ("cls", "json:label"):
        config = make_config(
            f"input.shards={tmp_path}/evil.tar", f"input.labels={labels}", "cam.classes=both"
        )
        (report,) = run(config, QUIET).reports
        assert report.statuses == {"no_label": 1, "unreadable": 2}
    assert not (tmp_path / "executed").exists()
    pickle.loads(evil)
    assert (tmp_path / "executed").exists()


def test_keys_are_data_and_lead_nowhere(make_config: ConfigMaker, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    keys = [f"{tmp_path}/absolute", "/etc/x", "a/..b/c", "~/home", "$HOME", "a\\b", "a\nb"]
    tar(folder / "keys.tar", [(f"{key}.jpg", picture()) for key in keys])
    tar(folder / "up.tar", [("../../up.jpg", picture())])
    before = everything_below(tmp_path)
    summary = run(make_config(f"input.shards={folder}/*.tar"), QUIET)
    (failure,) = summary.failures
    assert "member '../../up.jpg' leads out of the archive" in failure.reason
    rows = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    assert [row["key"] for row in rows] == keys
    new = everything_below(tmp_path).keys() - before.keys()
    folder = Path(summary.folder)
    manifests = folder.parent / "_runs" / folder.name / "manifests"
    assert {path.parent for path in new} == {folder, manifests.parent, manifests}
    assert sorted(path.suffix for path in new) == [".json", ".json", ".parquet"]


@given(st.text(max_size=40))
@example("../../up.tar")
@example("s3://bucket/../..")
@example("/in/...tar")
@example(".tar")
def test_the_name_of_a_file_is_one_visible_name(uri: str) -> None:
    name = file_name(uri.encode("utf-8", "ignore").decode())
    assert "/" not in name
    assert name[0] not in "._"
    assert name.endswith(".parquet")


def test_only_temporary_files_of_our_own_are_removed(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    config = make_config()
    engine, _ = prepare(config, QUIET)
    folder = Path(recipe_uri(config.output, engine.recipe))
    folder.mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    ours = f".shard-000000-{'0' * 16}.parquet"
    (folder / f"{ours}.1-aa").symlink_to(precious)
    (folder / f"{ours}.2-bb").symlink_to("nowhere")
    (folder / f"{ours}.3-cc").mkdir()
    (folder / ".someones.parquet.crc").write_text("kept")
    long_ago = time.time() - 7 * 24 * 3600
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    assert run(config, QUIET).complete
    assert precious.read_text() == "mine"
    left = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert left == {f"{ours}.3-cc", ".someones.parquet.crc"}


# One line for each hazard: what became of it, and by how many MiB the process was larger than after
# a harmless shard and image, at its largest so far.
PROGRAM = """
import json, re, sys
from pathlib import Path
from cambox.errors import ShardError
from cambox.sources.decode import DecodeError, decode_image
from cambox.sources.samples import read_samples
from cambox.sources.shards import Shard

def peak():
    # Not ru_maxrss: that begins with the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024

first = Path(sys.argv[1]) / "0-plain.tar"
sum(1 for _ in read_samples(Shard(str(first), first.stat().st_size, "")))
decode_image((Path(sys.argv[1]) / "0-plain.jpg").read_bytes(), 10**8)
base = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        if ".tar" in path.name:
            shard = Shard(str(path), path.stat().st_size, "")
            count = sum(1 for _ in read_samples(shard, max_sample_bytes=8 << 20))
            outcome = f"{count} samples"
        else:
            outcome = f"{decode_image(path.read_bytes(), 10**8).shape}"
    except (ShardError, DecodeError) as error:
        outcome = f"{getattr(error, 'status', 'refused')}: {error}"
    print(json.dumps([path.name, outcome, peak() - base]))
"""


def png_of(side: int) -> bytes:
    """A few kilobytes that declare a picture of any size, and hold as many zeros as they can."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + sum_

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(8 * MIB), 9))
    return b"\x89PNG\r\n\x1a\n" + start + pixels + chunk(b"IEND", b"")


def png_of_a_chunk(size: int) -> bytes:
    """A whole PNG of some bytes whose pixels are said to be in a chunk of any size."""
    data = bytearray(picture("PNG"))
    struct.pack_into(">I", data, data.index(b"IDAT") - 4, size)
    return bytes(data)


def pax_sparse() -> bytes:
    """A sparse member of the newest form, whose map lies among its data: as long as it likes."""
    records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.realsize=10\n"
    start = header("pax", len(records), tarfile.XHDTYPE) + records.ljust(512, b"\0")
    map_of_many = b"99999999\n" + b"0\n" * (16 * MIB)
    return gzip.compress(start + header("a.jpg", 10) + map_of_many, 1)


def jpeg_of(side: int) -> bytes:
    data = bytearray(picture())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    return bytes(data)


def jpeg_of_two_sizes(side: int) -> bytes:
    """A first frame header of one size, a second of another: libraries disagree which counts."""
    data, large = picture(), jpeg_of(side)
    start = data.index(b"\xff\xc0")
    end = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
    return data[:start] + large[start:end] + data[start:]


def jpeg2000_of_two_sizes(side: int) -> bytes:
    """A small size on the box, a large one on what is inside."""
    data = bytearray(picture("JPEG2000"))
    struct.pack_into(">II", data, data.index(b"\xff\x51") + 6, side, side)
    struct.pack_into(">II", data, data.index(b"\xff\x51") + 22, side, side)
    return bytes(data)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def pax(count: int, size: int, is_global: bool) -> bytes:
    """Members after headers of their own, each of so many bytes; gzip, because they compress."""
    blocks = []
    for index in range(count):
        entry = f"CAMBOX.comment{index}={'x' * size}\n"
        entry = f"{len(entry) + 8:07d} {entry}"
        kind = tarfile.XGLTYPE if is_global else tarfile.XHDTYPE
        padded = -(-len(entry) // 512) * 512
        blocks.append(header("pax", len(entry), kind) + entry.encode().ljust(padded, b"\0"))
        blocks.append(header(f"{index}.jpg", 0))
    return gzip.compress(b"".join(blocks) + bytes(1024), 1)


def write_hazards(folder: Path) -> None:
    tar(folder / "0-plain.tar", [(f"{index}.jpg", picture()) for index in range(100)])
    (folder / "0-plain.jpg").write_bytes(picture())
    (folder / "1-bomb.png").write_bytes(png_of(60_000))
    (folder / "1-bomb.jpg").write_bytes(jpeg_of(60_000))
    (folder / "1-chunk.png").write_bytes(png_of_a_chunk(0xFFFFFF00))
    (folder / "1-pnm.jpg").write_bytes(b"P4\n1000#1000000\n 5 \n" + bytes(8 * MIB))
    (folder / "1-two-sizes.jpg").write_bytes(jpeg_of_two_sizes(60_000))
    (folder / "1-two-sizes.jp2").write_bytes(jpeg2000_of_two_sizes(60_000))
    zeros = gzip.compress(bytes(64 * MIB), 9) * 160
    (folder / "2-marker-then-10-gib.tar.gz").write_bytes(gzip.compress(bytes(1024)) + zeros)
    start = gzip.compress(header("a.jpg", 10 << 30))
    (folder / "2-member-of-10-gib.tar.gz").write_bytes(start + zeros)
    sparse = header("a.jpg", 10 << 30, tarfile.GNUTYPE_SPARSE) + bytes(4 * MIB)
    (folder / "3-sparse.tar").write_bytes(sparse)
    (folder / "3-sparse-pax.tar.gz").write_bytes(pax_sparse())
    (folder / "4-pax-of-each-member.tar.gz").write_bytes(pax(100, 900_000, is_global=False))
    (folder / "4-pax-of-all.tar.gz").write_bytes(pax(100, 900_000, is_global=True))
    tar(folder / "5-many-members.tar", ((f"k.{index}", b"") for index in range(20_000)))
    tar(folder / "5-large-together.tar", ((f"k.{index}", bytes(MIB)) for index in range(20)))
    tar(folder / "5-names-together.tar", ((f"k.{i}{'n' * 3000}", b"") for i in range(2_000)))
    tar(folder / "5-long-names.tar", ((f"{i}{'n' * 900_000}.jpg", b"") for i in range(20)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_bombs_are_refused_and_memory_is_bounded(tmp_path: Path) -> None:
    write_hazards(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    print(*results, sep="\n")
    outcomes = {name: outcome for name, outcome, _ in results}
    expected = {
        "0-plain.jpg": "(64, 64, 3)",
        "0-plain.tar": "100 samples",
        "1-chunk.png": "unreadable: |(64, 64, 3)",
        "1-pnm.jpg": r"\(5, 1000, 3\)",
        "1-bomb.jpg": "too_large: ",
        "1-bomb.png": "too_large: ",
        "1-two-sizes.jp2": "unreadable: ",
        "1-two-sizes.jpg": "unreadable: ",
        "2-marker-then-10-gib.tar.gz": "refused: .* zeros after the end-of-archive marker",
        "2-member-of-10-gib.tar.gz": "refused: .*declares 10737418240 bytes",
        "3-sparse-pax.tar.gz": "refused: .*is sparse",
        "3-sparse.tar": "refused: .*is sparse",
        "4-pax-of-all.tar.gz": "refused: .*global headers of",
        "4-pax-of-each-member.tar.gz": "100 samples",
        "5-large-together.tar": "refused: .*more than 8388608 bytes together",
        "5-long-names.tar": "refused: .*a name of 9000.. characters",
        "5-names-together.tar": "refused: .*more than 1048576 characters together",
        "5-many-members.tar": "refused: .*more than 8388608 bytes together",
    }
    assert outcomes.keys() == expected.keys()
    for name, pattern in expected.items():
        assert re.search(pattern.replace("(64, 64, 3)", r"\(64, 64, 3\)"), outcomes[name]), name
    assert max(growth for _, _, growth in results) < 64


# Of each shard by how many MiB the process was larger at its largest than before it, and its rows.
ATTACKS = """
import io, json, re, sys, time
from pathlib import Path
from rich.console import Console
from cambox.config_file import load_config
from cambox.run import annotate_planned, prepare

def resident(name):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\\s+(\\d+) kB", status)[1]) // 1024

for path in sys.argv[2:]:
    config = load_config(sys.argv[1], [f"input.shards={path}", "engine.cpus_per_worker=2"])
    engine, work = prepare(config, Console(file=io.StringIO()))
    Path("/proc/self/clear_refs").write_text("5")
    base, start = resident("VmRSS"), time.monotonic()
    summary = annotate_planned(config, engine, work, Console(file=io.StringIO()))
    print(json.dumps([Path(path).name, resident("VmHWM") - base, time.monotonic() - start,
                      summary.statuses, [failure.reason for failure in summary.failures]]))
"""


def test_what_an_attack_found_takes_under_200_mib_on_a_worker_of_two_threads(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    attacks = SHARED / "data" / "attacks"
    if not attacks.is_dir():
        pytest.skip("needs the attacks in ../shared, which are not here")
    make_config()
    tar(tmp_path / "idat_4g.tar", [("a.png", (attacks / "idat_4g.png").read_bytes())])
    names = ("pnm", "cls128", "sparse10", "names")
    shards = [tmp_path / "idat_4g.tar", *(attacks / f"{name}.tar.gz" for name in names)]
    done = subprocess.run(
        [sys.executable, "-c", ATTACKS, str(tmp_path / "config.yaml"), *map(str, shards)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=240,
    )
    results = {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}
    print(results)
    assert len(results) == len(shards)
    assert max(growth for growth, *_ in results.values()) < 200
    assert max(seconds for _, seconds, *_ in results.values()) < 60
    for name in ("sparse10.tar.gz", "names.tar.gz"):
        assert results[name][2:] == [{}, [results[name][3][0]]]
