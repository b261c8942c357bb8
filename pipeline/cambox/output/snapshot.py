"""The files of a manifest, for readers: by their names, or where they are kept once replaced.

What is named is what is read, however often the folder changes meanwhile.
"""

from __future__ import annotations

import atexit
import io
import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import pyarrow as pa
from fsspec import AbstractFileSystem

from cambox.errors import RequestError
from cambox.output.footer import FileEnd, Footer, NotOursError, end_of, read_end
from cambox.output.known_file import FOOTERS_AT_ONCE, published_file
from cambox.output.manifest import ManifestFile, Options
from cambox.output.publish import replaced_uri, to_parquet
from cambox.output.published_file import PublishedFile
from cambox.output.reviewed import REVIEWED
from cambox.sources.storage import locate

if TYPE_CHECKING:
    import pyarrow.dataset

# The files that Arrow reads, until its threads have let go of them.
_HELD: WeakValueDictionary[int, IO[bytes]] = WeakValueDictionary()
_NUMBERS = itertools.count()
# Of a dataset that was read in part some are never let go of.
MOST_SECONDS_AT_EXIT = 2
SECONDS_OF_CLOSING = 0.2


@atexit.register
def _wait_for_arrow() -> None:
    """Let Arrow's threads finish with Python's files before Python ends.

    They close files after a table is made, and one that has to do with Python while it ends aborts
    the process, whose work was done (Arrow's issue 45214).
    """
    deadline = time.monotonic() + MOST_SECONDS_AT_EXIT
    while _HELD and time.monotonic() < deadline:
        time.sleep(0.01)
    if next(_NUMBERS):
        # A file that is let go of is still being closed.
        time.sleep(SECONDS_OF_CLOSING)


def _held(file: IO[bytes]) -> IO[bytes]:
    _HELD[next(_NUMBERS)] = file
    return file


def named_files(
    folder_uri: str, entries: Sequence[ManifestFile], storage_options: Options = None
) -> tuple[tuple[PublishedFile, ...], Footer]:
    """The files that a manifest names, known by their footers; and the footer of the first.

    Args:
        entries: at least one.

    Raises:
        RequestError: one is not what the manifest says, and was not kept; or cannot be read.
    """

    def named(entry: ManifestFile) -> tuple[PublishedFile, Footer]:
        uri = f"{folder_uri}/{entry.name}"
        try:
            end = _end(uri, entry, storage_options)
        except OSError as error:
            raise RequestError(f"{uri} cannot be read: {error}; check access to it") from error
        file, footer = published_file(uri, end, storage_options)
        return replace(file, sha256=entry.sha256), footer

    first, footer = named(entries[0])
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return (first, *pool.map(lambda entry: named(entry)[0], entries[1:])), footer


def _end(uri: str, entry: ManifestFile, storage_options: Options) -> FileEnd:
    damage: NotOursError | None = None
    for place in (uri, replaced_uri(uri, entry.sha256)):
        try:
            end = read_end(place, storage_options)
        except FileNotFoundError:
            continue
        except NotOursError as error:
            damage = error
            continue
        if end.digest == entry.footer_sha256:
            return end
    raise damage or not_kept(uri)


def not_kept(uri: str) -> RequestError:
    """That a file which a manifest names was removed or replaced by something else than cambox."""
    return RequestError(
        f"{uri} is not what the last run left there, and that was not kept; run cambox annotate "
        "again"
    )


class NamedFiles(AbstractFileSystem):  # type: ignore[misc]
    """The files that a manifest names, for libraries that take a file system of fsspec's.

    An open file stays what it is on a disk, and on S3, which is asked for this version's bytes.

    Args:
        files: by their path, as ``locate`` gives it: its URI, and what the manifest says of it.
    """

    protocol = "cambox"
    cachable = False

    def __init__(
        self, files: Mapping[str, tuple[str, ManifestFile]], storage_options: Options = None
    ) -> None:
        super().__init__()
        self.files = files
        self.options = storage_options

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedFiles, (self.files, self.options)

    def info(self, path: str, **_: object) -> dict[str, Any]:
        """A file's size and kind."""
        if path not in self.files:
            raise FileNotFoundError(path)
        return {"name": path, "size": self.files[path][1].size, "type": "file"}

    def ls(self, path: str, detail: bool = True, **_: object) -> list[Any]:
        """All of them, as they lie in one folder."""
        return [self.info(path) if detail else path for path in self.files]

    def open(self, path: str, mode: str = "rb", *_: object, **__: object) -> IO[bytes]:
        """Open a file to be read."""
        if mode != "rb" or path not in self.files:
            raise FileNotFoundError(path)
        uri, entry = self.files[path]
        for place in (uri, replaced_uri(uri, entry.sha256)):
            filesystem, path = locate(place, self.options)
            try:
                file: IO[bytes] = filesystem.open(path, "rb")
            except FileNotFoundError:
                continue
            if _is_named(place, file, entry):
                file.seek(0)
                return _held(file)
            file.close()
        raise not_kept(uri)


def _is_named(uri: str, file: IO[bytes], entry: ManifestFile) -> bool:
    try:
        return end_of(uri, file).digest == entry.footer_sha256
    except NotOursError:
        return False


class _ReviewedFiles(AbstractFileSystem):  # type: ignore[misc]
    """Published files with their reviewed rows in place of those stored, made as they are opened.

    Args:
        files: by their path.
    """

    protocol = "cambox-reviewed"
    cachable = False

    def __init__(self, files: Mapping[str, PublishedFile]) -> None:
        super().__init__()
        self.files = files

    def __reduce__(self) -> tuple[Any, ...]:
        return _ReviewedFiles, (self.files,)

    def info(self, path: str, **_: object) -> dict[str, Any]:
        """A file's kind; its size is known once it is made."""
        if path not in self.files:
            raise FileNotFoundError(path)
        return {"name": path, "size": None, "type": "file"}

    def open(self, path: str, mode: str = "rb", *_: object, **__: object) -> IO[bytes]:
        """Open a file to be read."""
        if mode != "rb" or path not in self.files:
            raise FileNotFoundError(path)
        rows = pa.Table.from_batches(self.files[path].whole_batches())
        return _held(io.BytesIO(to_parquet(rows)))


def with_reviewed_files(
    stored: pyarrow.dataset.FileSystemDataset, files: Mapping[str, PublishedFile]
) -> pyarrow.dataset.Dataset:
    """A dataset with a column that says which rows are reviewed, and with their boxes.

    Args:
        files: those of the dataset that have reviewed rows, by their path.
    """
    from pyarrow import dataset, fs

    reviewed = fs.PyFileSystem(fs.FSSpecHandler(_ReviewedFiles(files)))
    flag = dataset.field(REVIEWED)
    fragments = [
        stored.format.make_fragment(fragment.path, reviewed)
        if fragment.path in files
        # Of the others the column is known without being in them.
        else stored.format.make_fragment(
            fragment.path, fragment.filesystem, partition_expression=flag == pa.scalar(False)
        )
        for fragment in stored.get_fragments()
    ]
    schema = stored.schema.append(pa.field(REVIEWED, pa.bool_()))
    return dataset.FileSystemDataset(fragments, schema, stored.format, filesystem=stored.filesystem)
