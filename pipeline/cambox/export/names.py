"""Keys of samples as names of files: none leads out of its folder, no two meet."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# With a suffix still below the 255 bytes that file systems take.
_MAX_BYTES = 200
# Windows takes these for devices, whatever their suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


@dataclass(frozen=True)
class FileNames:
    """Names without a suffix, for the keys of an output.

    A key may be anything that a tar holds, and the same in several shards. Letters, digits, ``_``
    and ``-`` stay; all else, folders' slashes and dots among it, becomes ``_``. A name that
    several samples would have, upper and lower case being the same, and one that is too long or
    a device's gets a digest of shard and key.

    Attributes:
        repeated: (n,) sorted digests of the names that several samples would have.
    """

    repeated: np.ndarray

    @classmethod
    def of_keys(cls, keys: Iterable[str]) -> FileNames:
        """Look through the keys of all samples that get a name; takes eight bytes for each."""
        digests = np.fromiter((_digest(_plain(key)) for key in keys), np.uint64)
        digests.sort()
        return cls(np.unique(digests[1:][digests[1:] == digests[:-1]]))

    def name(self, key: str, shard: str) -> str:
        """The name of a sample's files, without a suffix."""
        plain = _plain(key)
        fits = len(plain.encode()) <= _MAX_BYTES
        if fits and not _DEVICES.fullmatch(plain) and not self._is_repeated(plain):
            return plain
        own = hashlib.sha256(f"{shard}\0{key}".encode()).hexdigest()[:16]
        return f"{plain.encode()[:_MAX_BYTES].decode(errors='ignore')}-{own}"

    def _is_repeated(self, plain: str) -> bool:
        digest = np.uint64(_digest(plain))
        place = int(np.searchsorted(self.repeated, digest))
        return place < len(self.repeated) and bool(self.repeated[place] == digest)


def _plain(key: str) -> str:
    name = re.sub(r"[^\w-]", "_", unicodedata.normalize("NFC", key)) or "_"
    # A dash would make it an option to whoever lists the folder on a command line.
    return f"_{name[1:]}" if name.startswith("-") else name


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.casefold().encode(), digest_size=8).digest())
