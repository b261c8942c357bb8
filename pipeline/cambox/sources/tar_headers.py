"""Headers of a tar archive that must parse: what the standard library forgives is an error.

``tarfile`` takes a damaged header, a header of zeros and the end of the file alike for the end of
the archive, so a cut or damaged archive reads as a smaller whole one. Its parser is used here as
it is, through the hooks it has for that, with two things added: every header must parse until the
end-of-archive marker; and names that lie outside of the headers, where no checksum covers them,
must have the form that they are written in.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

# tarfile's own names for what it found in place of a header; typeshed does not list them.
from tarfile import (  # type: ignore[attr-defined]
    EmptyHeaderError,
    EOFHeaderError,
    TruncatedHeaderError,
)
from typing import IO, Protocol, Self, cast

# Names and the like; tarfile reads such a header's data at once, before anybody sees the member.
_MAX_EXTENSION_BYTES = 1 << 20
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
REMEDY = "copy it again or re-pack it"
NO_MARKER = "no end-of-archive marker"
FIRST_REMEDY = "name a tar archive, ending in .gz or .tgz if it is compressed"
# What tarfile's parser runs into on values it did not expect.
PARSER_ERRORS = (
    tarfile.TarError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    RecursionError,
)


class ArchiveError(Exception):
    """The archive can not be read whole; the message says what is wrong, where, and the remedy."""

    def __init__(self, what: str, offset: int, detail: str, remedy: str = REMEDY) -> None:
        super().__init__(what, offset, detail, remedy)

    def __str__(self) -> str:
        what, offset, detail, remedy = self.args
        return f"{what} at byte {offset}: {detail}; {remedy}"


class Stream(Protocol):
    """What ``tarfile`` reads of an archive."""

    def read(self, size: int) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int) -> int: ...


class StrictHeader(tarfile.TarInfo):
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
        offset = stream_of(archive).tell()
        follows_extension = offset != archive.offset
        try:
            return super().fromtarfile(archive)
        except EOFHeaderError:
            # A block of zeros: the one thing that may end an archive.
            raise
        except EmptyHeaderError as error:
            if follows_extension or offset == 0:
                raise ArchiveError("cut", offset, NO_MARKER) from error
            detail = "every member is complete, but so they are in a tar cut between two of them"
            raise ArchiveError(NO_MARKER, offset, detail) from error
        except TruncatedHeaderError as error:
            remedy = REMEDY if offset else FIRST_REMEDY
            raise ArchiveError("cut", offset, f"inside a header, {NO_MARKER}", remedy) from error
        except PARSER_ERRORS as error:
            remedy = REMEDY if offset else FIRST_REMEDY
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

    def __init__(self, data: bytes, stream: Stream) -> None:
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
    stream = stream_of(archive)
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


def stream_of(archive: tarfile.TarFile) -> Stream:
    """The stream that an archive is read from."""
    return cast(Stream, archive.fileobj)
