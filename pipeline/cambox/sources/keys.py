"""The names of files, to the keys of samples, and to how names are compared."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

# WebDataset's own metadata, which its readers pass over (`tar_file_iterator`, `skip_meta`).
META_NAME = re.compile(r"__[^/]*__($|/)")
# WebDataset's own pattern, for which a line ends at a newline: such a key would be dropped.
_KEY_AND_SUFFIX = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_HERE = re.compile(r"^(\./+)+")


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """A member's key, and its suffix in lower case; None for one that belongs to no sample.

    Args:
        name: as ``tarfile`` gives it.
    """
    name = readable(name)
    if not belongs_to_sample(name):
        return None
    key, suffix = split_name(name)
    return None if key is None or suffix is None else (key, suffix.lower())


def split_name(name: str) -> tuple[str, str] | tuple[None, None]:
    """A name up to the first dot of its last part, and after it; nothing of one without a dot."""
    found = _KEY_AND_SUFFIX.fullmatch(name)
    return (found[1], found[2]) if found else (None, None)


def file_key(path: str) -> str:
    """The key of a picture that lies in a folder: its path without the extension."""
    plain = path.partition("://")[2] or path
    return PurePosixPath(plain.lstrip("/")).with_suffix("").as_posix()


def file_suffix(path: str) -> str:
    """The extension of a file, in lower case and without its dot."""
    return PurePosixPath(path).suffix[1:].lower()


def one_spelling(name: str) -> str:
    """What a key or a file's name is compared by: without ``./`` before it, in Unicode's NFC.

    ``tar -C photos .`` writes ``./a.jpg``, and a Mac's disk has é as two characters (NFD).
    """
    return unicodedata.normalize("NFC", _HERE.sub("", name))


def readable(name: str) -> str:
    """A name with what is not UTF-8 in it written as escapes.

    It comes with lone surrogates, which no Parquet file can hold.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def belongs_to_sample(name: str) -> bool:
    """Whether a member is neither hidden nor WebDataset's own metadata."""
    return not META_NAME.match(name) and not name.rpartition("/")[2].startswith(".")
