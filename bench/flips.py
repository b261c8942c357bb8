"""Single bits of a tar's headers, each flipped: none loses a sample in silence."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator

import fsspec
from rich.console import Console

from cambox.errors import ShardError
from cambox.sources.samples import read_samples
from cambox.sources.shards import Shard

JPEG = b"\xff\xd8\xff\xe0 played"
SAMPLES = 6
BLOCKS = 6
_LONG = "photographs of a long-winded source/" + 90 * "n"
KINDS = {
    "PAX": (tarfile.PAX_FORMAT, _LONG),
    "GNU": (tarfile.GNU_FORMAT, _LONG),
    "plain": (tarfile.USTAR_FORMAT, "photographs/n"),
}
"""Three ways of writing names: what ``tarfile`` calls the form, and how the names begin."""
_URI = "memory://flips/shard.tar"


def flips(kind: str, step: int = 1) -> Iterator[str]:
    """What becomes of a tar with one bit flipped: refused, read, or lost (fewer samples).

    Args:
        kind: one of ``KINDS``.
        step: every how manieth bit of the first blocks that are not a member's own data.
    """
    form, stem = KINDS[kind]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number in range(SAMPLES):
            member = tarfile.TarInfo(f"{stem}{number}.jpg")
            member.size = len(JPEG)
            archive.addfile(member, io.BytesIO(JPEG))
    tar = bytearray(buffer.getvalue())
    blocks = [
        start for start in range(0, len(tar), tarfile.BLOCKSIZE) if not tar.startswith(JPEG, start)
    ]
    bits = [8 * start + bit for start in blocks[:BLOCKS] for bit in range(8 * tarfile.BLOCKSIZE)]
    storage = fsspec.filesystem("memory")
    for bit in bits[::step]:
        tar[bit // 8] ^= 1 << bit % 8
        storage.pipe_file("/flips/shard.tar", bytes(tar))
        tar[bit // 8] ^= 1 << bit % 8
        try:
            count = sum(1 for _ in read_samples(Shard(_URI, len(tar), "")))
        except ShardError:
            yield "refused"
        else:
            yield "read" if count == SAMPLES else "lost"


def flip() -> None:
    """Flip each of 73,728 bits of three tars and say what became of their samples."""
    for kind in KINDS:
        Console().print(kind, dict(Counter(flips(kind))))
