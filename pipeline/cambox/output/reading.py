"""The one reader of published files: footers from their ends alone, rows by the columns asked for.

Every command that reads an output does it here, so all of them ask a storage again where that can
help, none downloads maps for a footer or a score, and all say the same of a file that is not ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cambox.cams.geometry import MapGeometry
from cambox.errors import RequestError
from cambox.output.folders import RECIPE_FOLDER, Folder, recipe_folder
from cambox.output.footer import Footer
from cambox.output.known_file import FOOTERS_AT_ONCE, known_file
from cambox.output.manifest import Manifest, read_manifest
from cambox.output.published_file import PublishedFile
from cambox.output.reviewed import Reviews, read_reviewed
from cambox.output.snapshot import named_files
from cambox.sources.samples import ImageRule


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
    def offset(self) -> float:
        """How many cells further right and down than it lies a cell of its maps looks."""
        return float(self.settings["cam"].get("offset", 0))

    @property
    def geometry(self) -> MapGeometry:
        """How the network's maps lie in its images.

        Raises:
            RequestError: the recipe does not say it.
        """
        try:
            size = self.settings["model"]["input_size"]
            size = size if isinstance(size, int) else (int(size[0]), int(size[1]))
            return MapGeometry(size, self.offset)
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


def open_recipe(
    uri: str, storage_options: Mapping[str, Any] | None = None, *, reviewed: bool = True
) -> PublishedRecipe:
    """Open the one recipe's folder that a URI names, or that its output holds or calls latest.

    Only footers are read, many at a time.

    Args:
        reviewed: of rows that people have reviewed their boxes are read; False: what the recipe
            made of all of them, for whoever judges the recipe.

    Raises:
        RequestError: there is none, or several and no latest; or a file cannot be read, is
            damaged, not of cambox, or of another recipe than the first.
    """
    folder = recipe_folder(uri, storage_options)
    if (manifest := manifest_of(folder)) is not None:
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
    if reviewed and (reviews := reviews_of(folder)) is not None:
        files = tuple(
            replace(
                file, reviews=reviews.of(file.shard.uri, file.shard.fingerprint, footer.classes)
            )
            for file in files
        )
        reviews.say_what_was_not_taken()
    return PublishedRecipe(folder, footer, files)


def reviews_of(folder: Folder) -> Reviews | None:
    """What people have reviewed of the output that holds a recipe's folder; None: nothing.

    Raises:
        RequestError: it cannot be read, or is damaged.
    """
    if RECIPE_FOLDER.fullmatch(folder.name) is None:
        return None
    root = folder.uri.rpartition("/")[0]
    try:
        rows = read_reviewed(root, folder.storage_options)
    except OSError as error:
        raise RequestError(f"{root} cannot be read: {error}; check access to it") from error
    return Reviews(root, rows) if rows else None


def manifest_of(folder: Folder) -> Manifest | None:
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
