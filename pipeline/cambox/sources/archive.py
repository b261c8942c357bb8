"""A tar archive read strictly to its end: its members, one in memory at a time.

Only zeros may follow the end-of-archive marker, and what is large beyond all measure is refused.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from cambox.sources.tar_headers import (
    FIRST_REMEDY,
    NO_MARKER,
    PARSER_ERRORS,
    REMEDY,
    ArchiveError,
    Stream,
    StrictHeader,
    stream_of,
)

DEFAULT_MAX_SAMPLE_BYTES = 1 << 30
# tarfile keeps the entries of all global headers, and every key is kept until the shard's end.
_MAX_GLOBAL_CHARACTERS = 1 << 20
_MAX_NAME_CHARACTERS = 4096
# tar fills its last record with zeros; the largest anybody writes have some megabytes.
_MAX_ZEROS = 64 << 20
BLOCKSIZE = tarfile.BLOCKSIZE
_CHUNK = 1 << 16
# Of a larger member tarfile would hold all pieces beside the whole.
_READ_WHOLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """A regular file in an archive, with all its bytes.

    Attributes:
        unchecked: its name lies outside of the header, where no checksum covers it.
    """

    name: str
    data: bytes
    unchecked: bool = False


def read_members(
    stream: BinaryIO,
    max_member_bytes: int = DEFAULT_MAX_SAMPLE_BYTES,
    wanted: Callable[[str], int | None] = lambda name: None,
) -> Iterator[Member]:
    """The regular files of a tar archive, in order, one in memory at a time.

    The stream is read to its end. Only when this iterator is exhausted without an error was the
    archive whole. Folders and devices are passed over.

    Args:
        stream: the uncompressed archive, at its first byte; it need not be seekable.
        max_member_bytes: a member that declares more is refused before its data are read.
        wanted: how many of a member's bytes are kept, by its name; None: all.

    Raises:
        ArchiveError: the archive is cut or damaged, or holds a sparse or too large member, a
            name or headers beyond all measure, or a link, which can not be followed in a stream.
    """
    try:
        # The encoding must not depend on this machine's locale.
        archive = tarfile.open(  # noqa: SIM115 (the stream is the caller's to close)
            fileobj=stream, mode="r|", tarinfo=StrictHeader, encoding="utf-8", bufsize=_CHUNK
        )
    except PARSER_ERRORS as error:
        raise ArchiveError("damaged", 0, str(error), FIRST_REMEDY) from error
    try:
        while (member := archive.next()) is not None:
            _require_plain(member, max_member_bytes)
            _require_few_globals(archive, member)
            # Of a kind that it does not know (a volume label) tarfile would give a file as well.
            if member.isreg() and (file := archive.extractfile(member)):
                unchecked = cast(StrictHeader, member).unchecked
                data = _read(file, member.size, wanted(member.name))
                yield Member(member.name, data, unchecked)
            # tarfile would keep every header it has seen.
            archive.members.clear()  # type: ignore[attr-defined]
    except PARSER_ERRORS as error:
        end = stream_of(archive).tell()
        raise ArchiveError("cut or damaged", end, f"{NO_MARKER} ({error})") from error
    _require_end_marker(stream_of(archive))


def _read(file: IO[bytes], size: int, wanted: int | None) -> bytes:
    if wanted is not None and wanted < size:
        # What is left the archive reads when it looks for the next member, and drops.
        return file.read(wanted)
    if size <= _READ_WHOLE_BYTES:
        return file.read()
    whole = io.BytesIO()
    while data := file.read(_READ_WHOLE_BYTES):
        whole.write(data)
    return whole.getvalue()


def _require_plain(member: tarfile.TarInfo, max_member_bytes: int) -> None:
    name, size, remedy = repr(member.name), member.size, "re-pack it without that member"
    if member.isreg() and not member.name:
        problem, remedy = "a member without a name", REMEDY
    elif not 0 <= size <= max_member_bytes:
        problem = f"member {name} declares {size} bytes, the limit is {max_member_bytes}"
    elif member.issparse():
        problem = f"member {name} of {size} bytes is sparse"
    elif member.islnk() or member.issym():
        # In a stream the file it stands for is gone, or still to come.
        problem, remedy = f"member {name} is a link", "re-pack it with tar -h --hard-dereference"
    elif len(member.name) > _MAX_NAME_CHARACTERS:
        problem = f"a name of {len(member.name)} characters, the limit is {_MAX_NAME_CHARACTERS}"
    else:
        return
    raise ArchiveError("refused", member.offset, problem, remedy)


def _require_few_globals(archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    size = sum(len(name) + len(value) for name, value in archive.pax_headers.items())
    if size > _MAX_GLOBAL_CHARACTERS:
        problem = f"global headers of {size} characters, the limit is {_MAX_GLOBAL_CHARACTERS}"
        raise ArchiveError("refused", member.offset, problem, "re-pack it without global headers")


def _require_end_marker(stream: Stream) -> None:
    """The first of the marker's two blocks of zeros has been read."""
    zeros = BLOCKSIZE
    while chunk := stream.read(_CHUNK):
        zeros += len(chunk)
        if rest := chunk.lstrip(b"\0"):
            raise ArchiveError(
                "damaged",
                stream.tell() - len(rest),
                "data after a header of zeros (an overwritten header, or archives in a row)",
            )
        if zeros > _MAX_ZEROS:
            problem = f"more than {_MAX_ZEROS} zeros after the end-of-archive marker"
            raise ArchiveError("refused", stream.tell(), problem)
    if zeros < 2 * BLOCKSIZE:
        raise ArchiveError("cut", stream.tell(), "inside the end-of-archive marker")
