"""The storage fails while a shard is read or published; the same run, or the next, mends it."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from rich.console import Console

import cambox.annotator
from cambox import planned
from cambox.errors import RequestError
from cambox.output import exchange, whole
from cambox.output import publish as publishing
from cambox.output.manifest import read_manifest
from cambox.run import run
from cambox.sources import stream
from cambox.sources.samples import Sample, read_samples
from cambox.sources.shards import Shard
from conftest import ConfigMaker
from fault_runs import FaultTable, LocalRuns, temporaries, visible

Honest = Callable[..., Any]
QUIET = Console(file=io.StringIO())


class Failing:
    """A function of the storage that fails so often, after doing a part of its work or none."""

    def __init__(self, honest: Honest, number: int, times: int) -> None:
        self.honest = honest
        self.number = number
        self.times = times
        self.failed = 0

    def error(self) -> OSError | None:
        """What to raise this time."""
        if self.failed == self.times:
            return None
        self.failed += 1
        return OSError(self.number, os.strerror(self.number))


def failing_write(failing: Failing) -> Honest:
    """Opening a temporary file gives one that takes half of what is written."""

    def open_file(path: Path, *arguments: Any, **named: Any) -> Any:
        file = failing.honest(path, *arguments, **named)
        if publishing.is_temporary(path.name) and (error := failing.error()) is not None:
            return _HalfWriter(file.detach(), error)
        return file

    return open_file


class _HalfWriter(io.BufferedWriter):
    def __init__(self, raw: Any, error: OSError) -> None:
        super().__init__(raw)
        self.error = error

    def write(self, data: Any) -> int:
        super().write(data[: len(data) // 2])
        self.flush()
        raise self.error


def failing_call(failing: Failing) -> Honest:
    def call(*arguments: Any, **named: Any) -> Any:
        if (error := failing.error()) is not None:
            raise error
        return failing.honest(*arguments, **named)

    return call


OPERATIONS: dict[str, tuple[Any, str, Callable[[Failing], Honest]]] = {
    "write": (Path, "open", failing_write),
    "fsync": (os, "fsync", failing_call),
    "link": (Path, "hardlink_to", failing_call),
    "fsync of the folder": (exchange, "sync_folder", failing_call),
}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("attempts", [1, 3])
def test_publishing_fails_and_is_done_again(
    make_config: ConfigMaker,
    fault_table: FaultTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    number: int,
    attempts: int,
) -> None:
    runs = LocalRuns(make_config(f"engine.max_attempts={attempts}"))
    clean = runs.clean(tmp_path / "clean")
    owner, name, change = OPERATIONS[operation]
    folder = runs.folder(tmp_path / "out")
    folder.mkdir(parents=True)
    failing = Failing(getattr(owner, name), number, times=2)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, change(failing))
        # Its file would be the first to meet the fault, and a run goes on without a lease.
        patched.setattr(planned, "held", lambda *_: nullcontext())
        summary = runs.run()
    # Two shards fail for good where there is one attempt; with three, the run mends itself.
    assert len(summary.failures) == (2 if attempts == 1 else 0)
    assert all(os.strerror(number) in failure.reason for failure in summary.failures)
    assert temporaries(folder) == []
    assert visible(folder).items() <= clean.files.items()
    # Linked and then not synced is visible, whole: the rerun finds it done.
    assert len(runs.run().reports) == (2 if attempts == 1 and "folder" not in operation else 0)
    what = f"{errno.errorcode[number]} from {operation}"
    fault_table.check(10, what, failing.failed, folder, clean)


def test_an_output_that_may_not_be_written_is_told_once_and_before_the_first_shard(
    make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = LocalRuns(make_config())
    runs.folder(tmp_path / "out")
    failing = Failing(publishing.TemporaryFile, errno.EACCES, times=100)
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "TemporaryFile", failing_call(failing))
        with pytest.raises(RequestError, match=r"output\.uri: .*out cannot be written: Permission"):
            runs.run()
    assert failing.failed == 1
    assert len(runs.run().reports) == 3
    # Nothing is tried where there is nothing to write.
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "TemporaryFile", failing_call(failing))
        assert runs.run().complete


def test_a_connection_that_breaks_while_a_shard_is_read(
    local_runs: LocalRuns, fault_table: FaultTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once by an error and once by closing early, which looks like the end of the file."""
    clean = local_runs.clean(tmp_path / "clean")
    honest = stream.open_stream
    broken = []

    def open_stream(uri: str, options: Any = None) -> Any:
        with honest(uri, options) as file:
            data = file.read()
        name = Path(uri).name
        if broken.count(name) < 2 and not name.endswith("2.tar"):
            broken.append(name)
            return _Breaking(data[: len(data) // 2], raises=broken.count(name) == 1)
        return io.BytesIO(data)

    monkeypatch.setattr(stream, "open_stream", open_stream)
    assert local_runs.run().complete
    folder = local_runs.folder(tmp_path / "out")
    fault_table.check(11, "connection lost in the middle of a shard", len(broken), folder, clean)


class _Breaking(io.BytesIO):
    def __init__(self, data: bytes, raises: bool) -> None:
        super().__init__(data)
        self.raises = raises

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data and self.raises:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def test_a_new_recipe_folder_is_synced_into_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a loss of power may take the folder, and with it files that were reported."""
    synced: list[Path] = []
    honest = whole.sync_folder
    monkeypatch.setattr(whole, "sync_folder", lambda path: (synced.append(path), honest(path)))
    for _ in range(2):
        whole.publish_bytes(str(tmp_path / "out" / "recipe" / "a.parquet"), b"data")
    recipe = tmp_path / "out" / "recipe"
    assert sorted(synced[:2]) == [tmp_path, tmp_path / "out"]
    # The second time nothing is new but the file.
    assert synced[2:] == [recipe, recipe]


def test_a_shard_that_is_cut_anywhere_publishes_nothing_until_it_is_whole(
    make_config: ConfigMaker, shards: Path, fault_table: FaultTable, tmp_path: Path
) -> None:
    """A tar reads without an error up to wherever it is cut: half a shard must not be a shard."""
    tar = (shards / "shard-000001.tar").read_bytes()
    path = tmp_path / "input" / "shard.tar"
    path.parent.mkdir()
    path.write_bytes(tar)
    runs = LocalRuns(make_config(f"input.shards={path}"))
    clean = runs.clean(tmp_path / "clean")
    folder = runs.folder(tmp_path / "out")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    end = members[-1].offset_data + members[-1].size
    cuts = sorted({*(member.offset for member in members), *range(1, end, 1024), end})
    # At the end it must be the clean run's shard again, so with its time.
    times = path.stat().st_mtime_ns
    for cut in cuts:
        path.write_bytes(tar[:cut])
        (failure,) = runs.run().failures
        assert failure.attempts == 1
        assert visible(folder) == {}
    path.write_bytes(tar)
    os.utime(path, ns=(times, times))
    assert runs.run().complete
    fault_table.check(7, "tar cut at and between its members", len(cuts), folder, clean)


# Of the same size and by its content, what was in the buffer already is all of the old one.
@pytest.mark.parametrize(
    ("fingerprint", "other"), [("store", "as large"), ("store", "larger"), ("content", "larger")]
)
def test_a_shard_that_is_rewritten_while_it_is_read_is_read_again(
    make_config: ConfigMaker,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fingerprint: str,
    other: str,
) -> None:
    path = tmp_path / "input" / "shard.tar"
    path.parent.mkdir()
    path.write_bytes((shards / "shard-000000.tar").read_bytes())
    later = shards / "shard-000001.tar"
    new = later.read_bytes() + (bytes(10240) if other == "larger" else b"")
    times = 1

    def reading(shard: Shard, *rest: Any) -> Iterator[Sample]:
        nonlocal times
        for sample in read_samples(shard, *rest):
            yield sample
            if sample.index == 1 and times:
                times -= 1
                path.write_bytes(new)

    monkeypatch.setattr(cambox.annotator, "read_samples", reading)
    config = make_config(f"input.shards={path}", f"input.fingerprint={fingerprint}")
    summary = run(config, QUIET)
    assert summary.complete
    (row, *_) = rows = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    with tarfile.open(later) as archive:
        keys = dict.fromkeys(name.partition(".")[0] for name in archive.getnames())
    assert [one["key"] for one in rows] == list(keys)
    assert row["shard"] == str(path)
    (report,) = summary.reports
    assert summary.manifest is not None
    named = read_manifest(summary.folder, summary.manifest).shards
    assert named == ((str(path), report.shard.fingerprint),)
    again = run(config, QUIET)
    assert (again.reports, again.manifest) == ((), summary.manifest)


def test_a_shard_that_is_rewritten_again_and_again_is_given_up(
    make_config: ConfigMaker, shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes((shards / "shard-000000.tar").read_bytes())

    def reading(shard: Shard, *rest: Any) -> Iterator[Sample]:
        yield from read_samples(shard, *rest)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))

    monkeypatch.setattr(cambox.annotator, "read_samples", reading)
    summary = run(make_config(f"input.shards={path}"), QUIET)
    (failure,) = summary.failures
    assert "was rewritten each time that it was read" in failure.reason
    assert not list(Path(summary.folder).glob("*.parquet"))
