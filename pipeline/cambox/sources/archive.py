"""A tar archive read strictly: whatever the standard library forgives in silence is an error.

``tarfile`` takes a damaged header, a header of zeros and the end of the file alike for the end of
the archive, so a cut or damaged archive reads as a smaller whole one. Its parser is used here as
it is, through the hooks it has for that, with three things added: every header must parse until the
end-of-archive marker, and after the marker there is nothing but zeros; and names that lie outside
of the headers, where no checksum covers them, must have the form that they are written in.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# tarfile's own names for what it found in place of a header; typeshed does not list them.
from tarfile import (  # type: ignore[attr-defined]
    EmptyHeaderError,
    EOFHeaderError,
    TruncatedHeaderError,
)
from typing import IO, BinaryIO, Protocol, Self, cast

DEFAULT_MAX_SAMPLE_BYTES = 1 << 30
# Names and the like; tarfile reads such a header's data at once, before anybody sees the member.
_MAX_EXTENSION_BYTES = 1 << 20
# tarfile keeps the entries of all global headers, and every key is kept until the shard's end.
_MAX_GLOBAL_CHARACTERS = 1 << 20
_MAX_NAME_CHARACTERS = 4096
# tar fills its last record with zeros; the largest anybody writes have some megabytes.
_MAX_ZEROS = 64 << 20
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# What POSIX lists; others have the name of who made them up before a dot (SCHILY.xattr, GNU.name).
_PAX_KEYWORD = re.compile(
    rb"atime|charset|comment|ctime|gid|gname|hdrcharset|linkpath|mtime|path|size|uid|uname|"
    rb"[^.]+\..+",
    re.DOTALL,
)
_PAX_RECORD = re.compile(rb"(\d+) ([^=\n]+)=")
BLOCKSIZE = tarfile.BLOCKSIZE
_CHUNK = 1 << 16
# Of a larger member tarfile would hold all pieces beside the whole.
_READ_WHOLE_BYTES = 1 << 20
_REMEDY = "copy it again or re-pack it"
_NO_MARKER = "no end-of-archive marker"
_FIRST_REMEDY = "name a tar archive, ending in .gz or .tgz if it is compressed"
# What tarfile's parser runs into on values it did not expect.
_PARSER_ERRORS = (
    tarfile.TarError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    RecursionError,
)


class ArchiveError(Exception):
    """The archive can not be read whole; the message says what is wrong, where, and the remedy."""

    def __init__(self, what: str, offset: int, detail: str, remedy: str = _REMEDY) -> None:
        super().__init__(what, offset, detail, remedy)

    def __str__(self) -> str:
        what, offset, detail, remedy = self.args
        return f"{what} at byte {offset}: {detail}; {remedy}"


class _Stream(Protocol):
    def read(self, size: int) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int) -> int: ...


@dataclass(frozen=True)
class Member:
    """A regular file in an archive, with all its bytes.

    Attributes:
        unchecked: its name lies outside of the header, where no checksum covers it.
    """

    name: str
    data: bytes
    unchecked: bool = False


class _StrictHeader(tarfile.TarInfo):
    """A header that must parse, where ``TarFile.next`` would take it for the end."""

    unchecked = False

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.HeaderError(f"member {header.name!r} of {header.size} bytes is sparse")
        if header.type in _EXTENSIONS and not 0 <= header.size <= _MAX_EXTENSION_BYTES:
            raise tarfile.HeaderError(f"an extension header of {header.size} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        offset = _stream_of(archive).tell()
        follows_extension = offset != archive.offset
        try:
            return super().fromtarfile(archive)
        except EOFHeaderError:
            # A block of zeros: the one thing that may end an archive.
            raise
        except EmptyHeaderError as error:
            if follows_extension or offset == 0:
                raise ArchiveError("cut", offset, _NO_MARKER) from error
            detail = "every member is complete, but so they are in a tar cut between two of them"
            raise ArchiveError(_NO_MARKER, offset, detail) from error
        except TruncatedHeaderError as error:
            remedy = _REMEDY if offset else _FIRST_REMEDY
            raise ArchiveError("cut", offset, f"inside a header, {_NO_MARKER}", remedy) from error
        except _PARSER_ERRORS as error:
            remedy = _REMEDY if offset else _FIRST_REMEDY
            raise ArchiveError("unusable tar header", offset, str(error), remedy) from error

    # tarfile stops at the first record that does not parse, and the member keeps the short name
    # of its header; so what they read is looked at first.
    def _proc_pax(self, archive: tarfile.TarFile) -> Self:
        with _read_first(archive, self._block(self.size)) as data:  # type: ignore[attr-defined]
            keywords = _keywords(data[: self.size], self.offset)
            header = super()._proc_pax(archive)  # type: ignore[misc]
        header.unchecked = header.unchecked or b"path" in keywords
        return cast(Self, header)

    def _proc_gnulong(self, archive: tarfile.TarFile) -> Self:
        with _read_first(archive, self._block(self.size)) as data:  # type: ignore[attr-defined]
            if b"\0" in data[: self.size].rstrip(b"\0"):
                raise tarfile.HeaderError("a long name with a zero in it")
            header = super()._proc_gnulong(archive)  # type: ignore[misc]
        header.unchecked = True
        return cast(Self, header)


class _Again:
    """A stream of which some bytes were read already, and are read again."""

    def __init__(self, data: bytes, stream: _Stream) -> None:
        self._data = data
        self.tell = stream.tell
        self._stream = stream

    def read(self, size: int) -> bytes:
        data, self._data = self._data, b""
        return data or self._stream.read(size)

    def seek(self, position: int) -> int:
        return self._stream.seek(position)


@contextmanager
def _read_first(archive: tarfile.TarFile, size: int) -> Iterator[bytes]:
    """The next bytes of an archive, which whoever reads it meanwhile gets as well."""
    stream = _stream_of(archive)
    data = stream.read(size)
    if len(data) < size:
        raise TruncatedHeaderError("truncated header")
    archive.fileobj = cast(IO[bytes], _Again(data, stream))
    try:
        yield data
    finally:
        archive.fileobj = cast(IO[bytes], stream)


def _keywords(data: bytes, offset: int) -> set[bytes]:
    """What an extended header speaks of: records of length, keyword, value and a line's end.

    Raises:
        tarfile.HeaderError: they do not fill it.
        ArchiveError: they speak of a sparse member.
    """
    found = set()
    start = 0
    while start < len(data):
        match = _PAX_RECORD.match(data, start)
        end = start + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise tarfile.HeaderError("a record of an extended header that does not parse")
        if match[2].startswith(b"GNU.sparse."):
            raise ArchiveError("refused", offset, "a member is sparse", "re-pack it whole")
        if not _PAX_KEYWORD.fullmatch(match[2]):
            raise tarfile.HeaderError(f"an extended header of the unknown kind {match[2][:40]!r}")
        found.add(match[2])
        start = end
    return found


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
            fileobj=stream, mode="r|", tarinfo=_StrictHeader, encoding="utf-8", bufsize=_CHUNK
        )
    except _PARSER_ERRORS as error:
        raise ArchiveError("damaged", 0, str(error), _FIRST_REMEDY) from error
    try:
        while (member := archive.next()) is not None:
            _require_plain(member, max_member_bytes)
            _require_few_globals(archive, member)
            # Of a kind that it does not know (a volume label) tarfile would give a file as well.
            if member.isreg() and (file := archive.extractfile(member)):
                unchecked = cast(_StrictHeader, member).unchecked
                data = _read(file, member.size, wanted(member.name))
                yield Member(member.name, data, unchecked)
            # tarfile would keep every header it has seen.
            archive.members.clear()  # type: ignore[attr-defined]
    except _PARSER_ERRORS as error:
        end = _stream_of(archive).tell()
        raise ArchiveError("cut or damaged", end, f"{_NO_MARKER} ({error})") from error
    _require_end_marker(_stream_of(archive))


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
        problem, remedy = "a member without a name", _REMEDY
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


def _require_end_marker(stream: _Stream) -> None:
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


def _stream_of(archive: tarfile.TarFile) -> _Stream:
    return cast(_Stream, archive.fileobj)
