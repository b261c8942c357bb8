"""A thousand shards: an unchanged rerun does nothing and opens no tar; a change redoes its own."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import cambox.annotator as station
from cambox.models.build import build_network
from cambox.output import footer
from cambox.output import publish as publishing
from cambox.sources.pack import pack
from cambox.sources.shards import find_shards
from conftest import ConfigMaker
from fault_runs import Clean, FaultTable, LocalRuns, samples_in_tars, visible

SHARDS = 1000
SECONDS_OF_PLANNING = 5.0
# One map and one box a picture: a thousand pictures are annotated here.
CHEAP = ("cam.top_k=1", "boxes.max_boxes=1", "engine.batch_size=1")

_opened: list[str] | None = None


def _note_opening(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        _opened.append(os.fspath(arguments[0]))


# For good, because Python has no way to take one off; it sees every file that Python opens.
sys.addaudithook(_note_opening)


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """The files that this process opens meanwhile, by whatever way."""
    global _opened
    _opened = opened = []
    try:
        yield opened
    finally:
        _opened = None


def stamps(folder: str | Path) -> dict[str, tuple[int, int]]:
    """What a rewrite changes: each file's and the folder's own time and inode."""
    paths = [Path(folder), *Path(folder).iterdir()]
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what would be most of the time for thousands of files, and is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    versions = footer.library_versions()
    monkeypatch.setattr(footer, "library_versions", lambda: versions)


def copy_shards(pictures: Path, tmp_path: Path) -> list[Path]:
    """A thousand shards of one picture each."""
    pack(pictures, tmp_path / "few", pictures / "labels.csv", samples_per_shard=1)
    few = sorted((tmp_path / "few").glob("*.tar"))
    (tmp_path / "input").mkdir()
    paths = [tmp_path / "input" / f"shard-{number:06d}.tar" for number in range(SHARDS)]
    for number, path in enumerate(paths):
        shutil.copy(few[number % len(few)], path)
    return paths


def publish_all(runs: LocalRuns, few: LocalRuns, tmp_path: Path) -> Path:
    """Publish each shard's file with the rows that a run over the few made for its picture."""
    made: list[pa.Table] = []

    def keep(rows: pa.Table, *rest: Any) -> str:
        made.append(rows)
        return publishing.publish(rows, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(station, "publish", keep)
        assert few.run(tmp_path / "few-out").complete
    # A run takes the largest first; the rows tell where they come from.
    made.sort(key=lambda rows: rows["shard"][0].as_py())
    for number, shard in enumerate(find_shards(runs.config.input.shards)):
        rows = made[number % len(made)]
        rows = rows.set_column(1, rows.schema.field(1), pa.array([shard.uri] * rows.num_rows))
        publishing.publish(rows, shard, runs.engine.recipe, runs.config.output)
    return runs.folder(runs.config.output.uri)


@pytest.mark.usefixtures("quick")
def test_a_thousand_shards(
    make_config: ConfigMaker, pictures: Path, fault_table: FaultTable, tmp_path: Path
) -> None:
    tars = copy_shards(pictures, tmp_path)
    pattern = f"input.shards={tmp_path}/input/*.tar"
    runs = LocalRuns(make_config(pattern, *CHEAP))
    few = LocalRuns(make_config(f"input.shards={tmp_path}/few/*.tar", *CHEAP))
    folder = publish_all(runs, few, tmp_path)
    clean = Clean(visible(folder), samples_in_tars(tars))
    before = stamps(folder)
    # No run has ended here yet; its manifest takes the SHA-256 of every file.
    assert runs.run().reports == ()
    assert stamps(folder) == before

    start = time.monotonic()
    with files_opened() as opened:
        again = runs.run()
    seconds = time.monotonic() - start
    print(f"planned {SHARDS} shards in {seconds:.2f} s")
    assert (len(again.reports), again.done_before) == (0, SHARDS)
    assert stamps(folder) == before
    assert sum(path.endswith(".parquet") for path in opened) == SHARDS
    assert [path for path in opened if ".tar" in path] == []
    assert seconds < SECONDS_OF_PLANNING
    fault_table.check(13, f"unchanged rerun over {SHARDS} shards", 1, folder, clean)

    # One changed shard: one file is made again, the others keep their time and inode.
    changed = tars[500]
    shutil.copy(tars[501], changed)
    with files_opened() as opened:
        third = runs.run()
    assert [report.shard.uri for report in third.reports] == [str(changed)]
    assert {path for path in opened if path.endswith(".tar")} == {str(changed)}
    after = stamps(folder)
    differing = {name for name in before if before[name] != after[name]}
    assert differing == {folder.name, publishing.file_name(str(changed))}
    clean = Clean(visible(folder), samples_in_tars(tars))
    fault_table.check(14, "one changed shard of 1000", len(third.reports), folder, clean)

    # A changed setting: all again under a new digest, and nothing under the old one is touched.
    other = LocalRuns(make_config(pattern, *CHEAP, "boxes.threshold=0.5"))
    redone = other.run()
    assert (redone.complete, len(redone.reports)) == (True, SHARDS)
    assert redone.folder != str(folder)
    assert stamps(folder) == after
    assert visible(folder) == clean.files
    counts = fault_table.measure(14, "changed threshold", 1, redone.folder, clean.samples)
    assert counts == (0, 0)


def test_changed_weights_redo_all_beside_the_old(
    make_config: ConfigMaker, fault_table: FaultTable, tmp_path: Path
) -> None:
    runs = LocalRuns(make_config())
    clean = runs.clean(tmp_path / "out")
    folder = runs.folder(tmp_path / "out")
    before = stamps(folder)
    state = build_network(runs.config.model).state_dict()
    state["fc.bias"] = state["fc.bias"] + torch.arange(len(state["fc.bias"]))
    torch.save(state, tmp_path / "weights.pth")
    other = LocalRuns(make_config(f"model.checkpoint={tmp_path}/weights.pth")).run()
    assert (other.complete, len(other.reports)) == (True, len(clean.files))
    assert Path(other.folder) != folder
    assert (visible(folder), stamps(folder)) == (clean.files, before)
    counts = fault_table.measure(14, "changed weights", 1, other.folder, clean.samples)
    assert counts == (0, 0)
