"""A disk that loses its power: what was not synced is gone, and a name may lead to half a file.

The product writes to a real folder; what it syncs is noted, and after the loss the folder is made
what a disk may hold then: names as they were at their folder's last sync or as they are now, files
with the bytes that were synced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest.mock import patch

from cambox.output.exchange import put, read_seen

from .checks import BrokenPromiseError


class PowerLossError(BaseException):
    """The machine is gone."""


class Disk:
    """What of a folder has reached the disk.

    Attributes:
        names: of each folder the names and the files (inodes) that they led to at its last sync.
        safe: the bytes of each file at its last sync.
    """

    def __init__(self, chance: Random, off_at: int) -> None:
        self.chance, self.off_at = chance, off_at
        self.syncs = 0
        self.names: dict[str, dict[str, int]] = {}
        self.safe: dict[int, bytes] = {}

    def fsync(self, descriptor: int) -> None:
        """In place of the system's, before or after which the power may go."""
        self._tick()
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.is_dir():
            self.names[str(path)] = _inodes(path)
        else:
            self.safe[path.stat().st_ino] = path.read_bytes()
        self._tick()

    def _tick(self) -> None:
        self.syncs += 1
        if self.syncs == self.off_at:
            raise PowerLossError

    def come_back(self, folder: Path) -> None:
        """Make the folder what it may be after the loss."""
        now, then = _inodes(folder), self.names.get(str(folder), {})
        for name, inode in now.items():
            path = folder / name
            # Without a sync a name may have reached the disk, or not.
            if then.get(name) != inode and self.chance.random() < 0.5:
                path.unlink()
                if (before := then.get(name)) is not None:
                    path.write_bytes(self.safe.get(before, b""))
            else:
                path.write_bytes(self.safe.get(inode, b""))


def _inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


@contextmanager
def no_fsync() -> Iterator[None]:
    """The planted bug: files are renamed without having reached the disk."""
    real = Disk.fsync

    def fsync(disk: Disk, descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            real(disk, descriptor)

    with patch.object(Disk, "fsync", fsync):
        yield


def loses_power(seed: int, folder: Path) -> None:
    """Write a file a few times, lose the power at some moment, and look.

    Raises:
        BrokenPromiseError: the file is not whole, or one that was said to be written is gone.
    """
    chance = Random(seed)
    disk = Disk(chance, chance.randint(1, 16))
    folder = folder.resolve() / str(seed)
    folder.mkdir()
    disk.names[str(folder)] = {}
    uri = str(folder / "file")
    contents = [f"content {number} ".encode() * 9 for number in range(4)]
    done = -1
    system = SimpleNamespace(**{**vars(os), "fsync": disk.fsync})
    with patch("cambox.output.whole.os", system):
        try:
            for number, content in enumerate(contents):
                if not put(read_seen(uri)[0], content):
                    raise BrokenPromiseError(f"content {number} was not written, and nobody else's")
                done = number
        except PowerLossError:
            disk.come_back(folder)
    found = Path(uri).read_bytes() if Path(uri).exists() else None
    # The one that was being written may be there already.
    if found not in [*contents[max(done, 0) : done + 2], *([None] if done < 0 else [])]:
        raise BrokenPromiseError(f"after {done} was written the file is {found!r}")


def found_after(folder: Path, most: int = 100) -> int | None:
    """How many losses of power it takes to see that files are not synced; None: none shows it."""
    with no_fsync():
        for seed in range(most):
            try:
                loses_power(seed, folder)
            except BrokenPromiseError:
                return seed + 1
    return None
