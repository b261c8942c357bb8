"""What a writer of a format is given and has to offer, and what the formats share."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cambox.training.labelled import LabelledImage

# Half a thousandth of a pixel at most is lost, and a line stays short.
_DECIMALS = 3
# With a suffix still below the 255 bytes that file systems take.
_MAX_NAME_BYTES = 200
# What spreadsheets take the rest of a cell for a formula after.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Windows takes these for devices, whatever their suffix.
_LIKE_A_DIGEST = re.compile(r"-[0-9a-f]{16}$", re.IGNORECASE)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
# XML 1.0 has no way to write these.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Rle:
    """A mask of an image, run-length encoded as COCO's tools do it.

    Attributes:
        counts: compressed.
        size: (height, width) of the image in pixels.
        area: pixels that are set.
    """

    counts: str
    size: tuple[int, int]
    area: int


@dataclass(frozen=True)
class Exported:
    """An image and what it is called in the export.

    Attributes:
        name: safe as a file's name, and of this image alone; without a suffix.
        suffix: of the image's file, without a dot.
        data: the image's file, upright as it is stored; None: images are left in their shards.
        turned: whether it had to be encoded anew for that.
        address: what the image is called below the ``--image-root`` that was asked for.
        masks: of each box; None where they were not asked for.
    """

    image: LabelledImage
    name: str
    suffix: str
    data: bytes | None = None
    turned: bool = False
    address: str | None = None
    masks: tuple[Rle, ...] | None = None

    @property
    def file_name(self) -> str:
        """The name of the image's file where it is extracted."""
        return f"{self.name}.{self.suffix}"

    @property
    def called(self) -> str:
        """What a format that names one path or URL calls the image."""
        return self.file_name if self.address is None else self.address

    @property
    def rounded_scores(self) -> list[float]:
        """(n,) ``box_score`` of the boxes to a millionth, 0 to 1."""
        return [round(score, 6) for score in self.image.boxes.score.tolist()]

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


def xml_text(text: str) -> str:
    """The same without the characters that no XML file can hold."""
    return _NO_XML.sub("?", text)


class JsonEntries:
    """The entries of a JSON list, or of an object, written one by one and one a line."""

    def __init__(self, path: Path, before: str, after: str) -> None:
        self.file = path.open("x", encoding="utf-8")
        self.file.write(before)
        self.after = after
        self.count = 0

    def add(self, entry: Any, key: str | None = None) -> None:
        """Write one, under its key where they are an object's."""
        before = "" if key is None else f"{json.dumps(key)}: "
        self.file.write((",\n" if self.count else "\n") + before + json.dumps(entry))
        self.count += 1

    def close(self) -> None:
        """All are added."""
        self.file.write(f"\n{self.after}\n")
        self.file.close()


class Origins:
    """``shards.csv``, row by row: of each image in an export the shard and the key it is from.

    People open it in a spreadsheet, which takes a cell that begins as a formula does for one: such
    a key has an apostrophe before it, as OWASP advises. The other columns cannot begin so.
    """

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "shards.csv").open("x", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(("image", "shard", "key"))

    def add(self, exported: Exported) -> None:
        """Where one image comes from."""
        key = exported.image.key
        cell = f"'{key}" if key.startswith(_FORMULAS) else key
        self.rows.writerow((exported.file_name, exported.image.shard, cell))

    def close(self) -> None:
        """All is added."""
        self.file.close()


@dataclass(frozen=True)
class FileNames:
    """Names without a suffix, for the keys of an output: none leads out of its folder.

    A key may be anything that a tar holds, and the same in several shards. Letters, digits, ``_``
    and ``-`` stay; all else, folders' slashes and dots among it, becomes ``_``. A name that
    several samples would have, upper and lower case being the same, and one that is too long or
    a device's gets a digest of shard and key, of which no other key makes its whole name.

    Attributes:
        keys: how many there are.
        repeated: (n,) sorted digests of the names that several samples would have.
        told_apart: how many samples those are.
        like_digests: (n,) sorted digests of the names that end as those with a digest do.
    """

    keys: int
    repeated: np.ndarray
    told_apart: int
    like_digests: np.ndarray

    @classmethod
    def of_keys(cls, keys: Iterable[str]) -> FileNames:
        """Look through the keys of all samples that get a name; takes eight bytes for each."""
        like_digests = array("Q")

        def seen(key: str) -> int:
            digest = _digest(plain := _plain(key))
            if _LIKE_A_DIGEST.search(plain):
                like_digests.append(digest)
            return digest

        digests = np.fromiter(map(seen, keys), np.uint64)
        found, counts = np.unique(digests, return_counts=True)
        repeated = counts > 1
        return cls(
            len(digests),
            found[repeated],
            int(counts[repeated].sum()),
            np.unique(np.array(like_digests, np.uint64)),
        )

    def name(self, key: str, shard: str) -> str:
        """The name of a sample's files, without a suffix."""
        plain, with_digest = names_of(key, shard)
        fits = len(plain.encode()) <= _MAX_NAME_BYTES
        if fits and not _DEVICES.fullmatch(plain) and not _is_among(plain, self.repeated):
            return plain
        more = ""
        while _is_among(with_digest, self.like_digests):
            more += "\0"
            with_digest = names_of(key, shard, more)[1]
        return with_digest


def names_of(key: str, shard: str, more: str = "") -> tuple[str, str]:
    """The two names, without a suffix, that exports may give a sample's files.

    Args:
        more: of what the second name's digest is, where another key has that name.
    """
    plain = _plain(key)
    own = hashlib.sha256(f"{shard}\0{key}{more}".encode()).hexdigest()[:16]
    return plain, f"{plain.encode()[:_MAX_NAME_BYTES].decode(errors='ignore')}-{own}"


def _is_among(name: str, digests: np.ndarray) -> bool:
    digest = np.uint64(_digest(name))
    return bool(digest in digests[np.searchsorted(digests, digest) :][:1])


def _plain(key: str) -> str:
    name = re.sub(r"[^\w-]", "_", unicodedata.normalize("NFC", key)) or "_"
    # A dash would make it an option to whoever lists the folder on a command line.
    return f"_{name[1:]}" if name.startswith("-") else name


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.casefold().encode(), digest_size=8).digest())
