"""What a writer of a format is given and has to offer, and what the formats share."""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cambox.training.labelled import LabelledImage

# Half a thousandth of a pixel at most is lost, and a line stays short.
_DECIMALS = 3
# With a suffix still below the 255 bytes that file systems take.
_MAX_NAME_BYTES = 200
# Windows takes these for devices, whatever their suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Exported:
    """An image and what it is called in the export.

    Attributes:
        name: safe as a file's name, and of this image alone; without a suffix.
        suffix: of the image's file, without a dot.
        data: the image's file, upright as it is stored; None: images are left in their shards.
        turned: whether it had to be encoded anew for that.
    """

    image: LabelledImage
    name: str
    suffix: str
    data: bytes | None = None
    turned: bool = False

    @property
    def file_name(self) -> str:
        """The name of the image's file."""
        return f"{self.name}.{self.suffix}"

    def corners(self) -> list[list[float]]:
        """(n, 4) x_min, y_min, x_max, y_max in pixels, half-open, to a thousandth."""
        rounded: list[list[float]] = self.image.boxes.corners.round(_DECIMALS).tolist()
        return rounded


class Writer(ABC):
    """Writes one format into a folder that is published when all is written."""

    def start_shard(self, number: int, count: int) -> None:  # noqa: B027  most need not know
        """What follows is of the shard with this number, from 0."""

    @abstractmethod
    def add(self, exported: Exported) -> None:
        """Write one image."""

    @abstractmethod
    def close(self) -> None:
        """All is added; write what is still missing."""

    def notes(self) -> tuple[str, ...]:
        """What a person should know of the files."""
        return ()


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet.

    Raises:
        FileExistsError: it is there.
    """
    with path.open("xb") as file:
        file.write(data)


class Origins:
    """``shards.csv``, row by row: of each image in an export the shard and the key it is from."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "shards.csv").open("x", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(("image", "shard", "key"))

    def add(self, exported: Exported) -> None:
        """Where one image comes from."""
        self.rows.writerow((exported.file_name, exported.image.shard, exported.image.key))

    def close(self) -> None:
        """All is added."""
        self.file.close()


@dataclass(frozen=True)
class FileNames:
    """Names without a suffix, for the keys of an output: none leads out of its folder.

    A key may be anything that a tar holds, and the same in several shards. Letters, digits, ``_``
    and ``-`` stay; all else, folders' slashes and dots among it, becomes ``_``. A name that
    several samples would have, upper and lower case being the same, and one that is too long or
    a device's gets a digest of shard and key.

    Attributes:
        keys: how many there are.
        repeated: (n,) sorted digests of the names that several samples would have.
    """

    keys: int
    repeated: np.ndarray

    @classmethod
    def of_keys(cls, keys: Iterable[str]) -> FileNames:
        """Look through the keys of all samples that get a name; takes eight bytes for each."""
        digests = np.fromiter((_digest(_plain(key)) for key in keys), np.uint64)
        digests.sort()
        return cls(len(digests), np.unique(digests[1:][digests[1:] == digests[:-1]]))

    def name(self, key: str, shard: str) -> str:
        """The name of a sample's files, without a suffix."""
        plain, with_digest = names_of(key, shard)
        digest = np.uint64(_digest(plain))
        is_repeated = digest in self.repeated[np.searchsorted(self.repeated, digest) :][:1]
        fits = len(plain.encode()) <= _MAX_NAME_BYTES
        return plain if fits and not _DEVICES.fullmatch(plain) and not is_repeated else with_digest


def names_of(key: str, shard: str) -> tuple[str, str]:
    """The two names, without a suffix, that exports may give a sample's files."""
    plain = _plain(key)
    own = hashlib.sha256(f"{shard}\0{key}".encode()).hexdigest()[:16]
    return plain, f"{plain.encode()[:_MAX_NAME_BYTES].decode(errors='ignore')}-{own}"


def _plain(key: str) -> str:
    name = re.sub(r"[^\w-]", "_", unicodedata.normalize("NFC", key)) or "_"
    # A dash would make it an option to whoever lists the folder on a command line.
    return f"_{name[1:]}" if name.startswith("-") else name


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.casefold().encode(), digest_size=8).digest())
