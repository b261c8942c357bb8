"""The names of files, to the keys of samples, and to how names are compared."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from cambox.sources.webdataset_io import base_plus_ext

# WebDataset's own metadata, which its readers pass over (`tar_file_iterator`, `skip_meta`).
META_NAME = re.compile(r"__[^/]*__($|/)")
_HERE = re.compile(r"^(\./+)+")


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """A member's key, and its suffix in lower case; None for one that belongs to no sample.

    Args:
        name: as ``tarfile`` gives it.
    """
    name = readable(name)
    if not belongs_to_sample(name):
        return None
    key, suffix = base_plus_ext(name)
    return None if key is None else (key, suffix.lower())


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
