"""The features of many pictures, on the disk and not in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from cambox.errors import RequestError

# A block of 1,280 features each stays in a core's cache, and is worth a call.
ROWS_AT_ONCE = 512


class FeatureFile:
    """(N, D) float16, in a file that has no name and is gone with its object, or its process.

    It is read again and again, mostly from the system's cache. By plain reads: of a mapped file all
    pages that were ever read would count as the memory of this process.

    Attributes:
        shape: N and D; D is 0 before the first rows.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Without rows yet; ``None``: the folder for temporary files."""
        self._folder = folder
        # It lives as long as this object.
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        self.shape = (0, 0)

    @classmethod
    def of(cls, rows: np.ndarray, folder: Path | None = None) -> FeatureFile:
        """A file of rows (N, D)."""
        file = cls(folder)
        file.append(rows)
        return file

    def append(self, rows: np.ndarray) -> None:
        """Write rows (n, D) after those that are there.

        Raises:
            RequestError: they cannot be written, as where the disk is full.
        """
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(rows, np.float16).data)
            self._file.flush()
        except OSError as error:
            raise RequestError(
                f"--to: the features of {self.shape[0] + len(rows)} pictures cannot be written to "
                f"a temporary file in {self._folder}: {error.strerror}; they take "
                f"{2 * rows.shape[1]} bytes a picture"
            ) from error
        # Of no rows the width may not be known.
        self.shape = (self.shape[0] + len(rows), rows.shape[1] or self.shape[1])

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows in order, ``ROWS_AT_ONCE`` at a time, and where they stand.

        The array is used again for the next ones.
        """
        count, width = self.shape
        buffer = np.empty((min(ROWS_AT_ONCE, count), width), np.float16)
        for first in range(0, count, ROWS_AT_ONCE):
            block = buffer[: count - first]
            self._file.seek(first * block.strides[0])
            self._file.readinto(block.data)  # type: ignore[attr-defined]
            yield slice(first, first + len(block)), block

    def some(self, used: np.ndarray) -> FeatureFile:
        """Another file of some of the rows, (N,) bool."""
        file = FeatureFile(self._folder)
        for place, block in self.blocks():
            file.append(block[used[place]])
        return file

    def and_after(self, other: FeatureFile) -> FeatureFile:
        """Another file of these rows and then the other's."""
        file = FeatureFile(self._folder)
        for part in (self, other):
            for _, block in part.blocks():
                file.append(block)
        return file
