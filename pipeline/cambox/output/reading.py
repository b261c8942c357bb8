"""The one reader of published files: footers from their ends alone, rows by the columns asked for.

Every command that reads an output does it here, so all of them ask a storage again where that can
help, none downloads maps for a footer or a score, and all say the same of a file that is not ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cambox.errors import RequestError
from cambox.output.folders import Folder, recipe_folder
from cambox.output.footer import Footer, NotOursError, read_end, require_a_file
from cambox.output.manifest import Manifest, read_manifest
from cambox.output.published_file import PublishedFile, known_file, published_file
from cambox.output.snapshot import FOOTERS_AT_ONCE, NamedFiles, named_files
from cambox.sources.listing import list_folder
from cambox.sources.samples import ImageRule
from cambox.sources.storage import locate

if TYPE_CHECKING:
    import pyarrow.dataset


@dataclass(frozen=True)
class PublishedRecipe:
    """A recipe's folder, opened: what its files have in common, and the files.

    Attributes:
        footer: of the first file; recipe and classes are those of all.
        files: in the order of their names.
    """

    folder: Folder
    footer: Footer
    files: tuple[PublishedFile, ...]

    @property
    def uri(self) -> str:
        """Of the folder."""
        return self.folder.uri

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings that shaped the rows.

        Raises:
            RequestError: they are not settings of cambox.
        """
        try:
            settings: dict[str, Any] = json.loads(self.footer.recipe)
            for section in ("input", "model", "cam", "boxes", "output"):
                settings[section].keys()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.other_make() from error
        return settings

    @property
    def input_size(self) -> tuple[int, int] | int:
        """Of the network, in pixels: (height, width), or the longer side of images as they are.

        Raises:
            RequestError: the recipe does not say it.
        """
        try:
            size = self.settings["model"]["input_size"]
            return size if isinstance(size, int) else (int(size[0]), int(size[1]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self.other_make() from error

    @property
    def image_rule(self) -> ImageRule:
        """Which files of the shards are the rows' images."""
        return ImageRule.of_recipe(self.settings)

    def other_make(self) -> RequestError:
        """That the recipe's settings are of a cambox that knew other ones."""
        return RequestError(
            f"{self.uri}: its recipe is of another cambox; run cambox annotate again"
        )

    def batches(
        self, columns: Sequence[str], on_file: Callable[[int], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of all files, some at a time; one file's columns are in memory.

        Args:
            on_file: called with the number of files, after each.

        Raises:
            RequestError: a file cannot be read, or is damaged.
        """
        for file in self.files:
            yield from file.batches(columns)
            if on_file is not None:
                on_file(len(self.files))


def open_recipe(uri: str, storage_options: Mapping[str, Any] | None = None) -> PublishedRecipe:
    """Open the one recipe's folder that a URI names, or that its output holds or calls latest.

    Only footers are read, many at a time.

    Raises:
        RequestError: there is none, or several and no latest; or a file cannot be read, is
            damaged, not of cambox, or of another recipe than the first.
    """
    folder = recipe_folder(uri, storage_options)
    if (manifest := _manifest(folder)) is not None:
        files, footer = named_files(folder.uri, manifest.files, storage_options)
    else:

        def known(name: str) -> PublishedFile:
            return known_file(folder.uri_of(name), storage_options)[0]

        first, footer = known_file(folder.uri_of(folder.parquet[0]), storage_options)
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            files = (first, *pool.map(known, folder.parquet[1:]))
    for file in files:
        if file.recipe_digest != files[0].recipe_digest:
            raise RequestError(
                f"{file.uri} is of another recipe than {files[0].uri}; run cambox verify, and move "
                "one of them away"
            )
    return PublishedRecipe(folder, footer, files)


def _manifest(folder: Folder) -> Manifest | None:
    """What of a folder is to be read, where a run has said it.

    Raises:
        RequestError: the manifest cannot be read, or names nothing.
    """
    if folder.manifest is None:
        return None
    try:
        manifest = read_manifest(folder.uri, folder.manifest, folder.storage_options)
    except OSError as error:
        raise RequestError(f"{folder.uri} cannot be read: {error}; check access to it") from error
    if not manifest.files:
        raise RequestError(f"{folder.uri} holds no published file; run cambox annotate first")
    return manifest


def names_in(folder_uri: str, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """The names of the visible files of a folder, of which nothing is read.

    Raises:
        OSError: the folder cannot be listed.
    """
    filesystem, path = locate(folder_uri, storage_options)
    # Another process may have published since this one looked.
    filesystem.invalidate_cache()
    try:
        entries = list_folder(filesystem, path)
    except FileNotFoundError:
        return []
    names = [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries]
    return [name for name in names if name.endswith(".parquet") and name[0] not in "._"]


def files_in(
    folder_uri: str,
    storage_options: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, PublishedFile | None]:
    """The visible files of a folder, by name; None for one that is not whole or not ours.

    Args:
        names: only of these, and of them those that are there, also where a listing is late; None:
            all.

    Raises:
        OSError: the folder cannot be listed, or a footer cannot be read.
    """
    if names is None:
        names = names_in(folder_uri, storage_options)

    def known(name: str) -> tuple[str, PublishedFile | None] | None:
        uri = f"{folder_uri}/{name}"
        try:
            return name, published_file(uri, read_end(uri, storage_options), storage_options)[0]
        except NotOursError:
            return name, None
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return dict(found for found in pool.map(known, names) if found is not None)


def read(output: str, storage_options: Mapping[str, Any] | None = None) -> pyarrow.dataset.Dataset:
    """The rows of an output, as a dataset of Arrow: those of its last run that ended.

    What further runs change meanwhile changes nothing of it; ask again for the rows of now.

    >>> read("demo/boxes").to_table(columns=["key", "labels"]).num_rows
    4

    ``to_table()`` has them all in memory, ``to_batches()`` some at a time. The columns are in
    docs/format.md.

    Args:
        output: a recipe's folder, an output that holds one recipe, or one whose ``latest`` says
            which; a path or URL.
        storage_options: passed to fsspec.

    Raises:
        RequestError: nothing is published there, or it cannot be listed.
    """
    # It takes as long to import as all the rest here, where pandas is installed.
    import pyarrow.dataset

    folder = recipe_folder(output, storage_options)
    manifest = _manifest(folder)
    if manifest is None:
        filesystem, _ = locate(folder.uri, storage_options)
        paths = [locate(folder.uri_of(name), storage_options)[1] for name in folder.parquet]
        for path in paths:
            require_a_file(path, filesystem, path)
        return pyarrow.dataset.dataset(paths, filesystem=filesystem, format="parquet")
    uris = {folder.uri_of(entry.name): entry for entry in manifest.files}
    named = {locate(uri, storage_options)[1]: (uri, entry) for uri, entry in uris.items()}
    files = NamedFiles(named, storage_options)
    return pyarrow.dataset.dataset(list(named), filesystem=files, format="parquet")
