"""Writing over what was seen, and over nothing else, on disks of several kinds and in memory."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from filelock import FileLock

from cambox.output.exchange import Seen, look, put, read_seen


@pytest.fixture(params=["disk", "disk without links", "disk without locks", "memory"])
def at(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a file that is not there, in a folder that is not there either."""

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def cannot(*arguments: object, **more: object) -> None:
        raise NotImplementedError("no locks here")

    if request.param == "disk without links":
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    if request.param == "disk without locks":
        monkeypatch.setattr(FileLock, "acquire", cannot)
    return f"memory://{tmp_path.name}/a/b" if request.param == "memory" else f"{tmp_path}/a/b"


def test_a_file_is_written_over_what_was_seen_and_over_nothing_else(at: str) -> None:
    nothing = look(at)
    assert nothing == Seen(at, None)
    assert not nothing.there
    assert put(nothing, b"one")
    assert not put(nothing, b"two")
    first, data = read_seen(at)
    assert (first.there, data) == (True, b"one")
    assert put(first, b"two")
    assert not put(first, b"three")
    second, data = read_seen(at)
    assert data == b"two"
    assert second != first
    with fsspec.open(at, "rb") as file:
        assert file.read() == b"two"


def test_what_is_written_already_counts_as_written(at: str) -> None:
    """A lost answer has the same question asked twice."""
    nothing = look(at)
    assert put(nothing, b"one")
    assert put(nothing, b"one")
    seen = look(at)
    assert put(seen, b"two")
    assert put(seen, b"two")


def test_what_was_removed_meanwhile_is_not_written_over(at: str) -> None:
    assert put(look(at), b"one")
    seen = look(at)
    filesystem, path = fsspec.url_to_fs(at)
    filesystem.rm_file(path)
    assert not put(seen, b"two")
    assert not filesystem.exists(path)


def test_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        put(look(str(path)), data)
        put(Seen(str(path), "other"), b"lost")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_named_and_stays(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    make(path)
    before = path.lstat()
    for write in (look, read_seen, lambda uri: put(Seen(uri, None), b"one")):
        with pytest.raises(OSError, match="is not a regular file; move it out of the folder"):
            write(str(path))
    assert path.lstat() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("there", [False, True])
def test_of_many_at_once_one_is_first(tmp_path: Path, there: bool) -> None:
    begin = threading.Barrier(8)

    def write(seen: Seen, data: bytes) -> bool:
        begin.wait()
        return put(seen, data)

    with ThreadPoolExecutor(8) as pool:
        for round_ in range(20):
            uri = str(tmp_path / f"file-{round_}")
            if there:
                put(look(uri), b"before")
            all_data = [str(number).encode() for number in range(8)]
            won = pool.map(write, [look(uri)] * 8, all_data)
            first = [data for data, is_first in zip(all_data, won, strict=True) if is_first]
            assert first == [Path(uri).read_bytes()]
