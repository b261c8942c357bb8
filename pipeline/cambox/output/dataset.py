"""The rows of an output as a dataset of Arrow, with the boxes of people where there are some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cambox.output.folders import Folder, recipe_folder
from cambox.output.footer import Footer, require_a_file
from cambox.output.known_file import known_file
from cambox.output.manifest import Manifest
from cambox.output.publish import file_name
from cambox.output.published_file import PublishedFile
from cambox.output.reading import manifest_of, reviews_of
from cambox.output.snapshot import NamedFiles, named_files, with_reviewed_files
from cambox.sources.storage import locate

if TYPE_CHECKING:
    import pyarrow.dataset


def read(output: str, storage_options: Mapping[str, Any] | None = None) -> pyarrow.dataset.Dataset:
    """The rows of an output, as a dataset of Arrow: those of its last run that ended.

    What further runs change meanwhile changes nothing of it; ask again for the rows of now.

    >>> read("demo/boxes").to_table(columns=["key", "labels"]).num_rows
    4

    ``to_table()`` has them all in memory, ``to_batches()`` some at a time. The columns are in
    docs/format.md. Where people have reviewed rows their boxes are there, and a column
    ``reviewed`` says of which.

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
    manifest = manifest_of(folder)
    reviewed = _reviewed_files(folder, manifest)
    if manifest is None:
        filesystem, _ = locate(folder.uri, storage_options)
        paths = [locate(folder.uri_of(name), storage_options)[1] for name in folder.parquet]
        for path in paths:
            require_a_file(path, filesystem, path)
    else:
        uris = {folder.uri_of(entry.name): entry for entry in manifest.files}
        named = {locate(uri, storage_options)[1]: (uri, entry) for uri, entry in uris.items()}
        filesystem, paths = NamedFiles(named, storage_options), list(named)
    stored = pyarrow.dataset.dataset(paths, filesystem=filesystem, format="parquet")
    return with_reviewed_files(stored, reviewed) if reviewed else stored


def _reviewed_files(folder: Folder, manifest: Manifest | None) -> dict[str, PublishedFile]:
    """The files of a folder that have reviewed rows, by their path; of the others nothing is read.

    Raises:
        RequestError: one cannot be read, or is damaged.
    """
    reviews = reviews_of(folder)
    if reviews is None:
        return {}
    options = folder.storage_options
    names = {file_name(shard) for shard in reviews.by_shard}
    found: list[tuple[PublishedFile, Footer]]
    if manifest is None:
        known = [folder.uri_of(name) for name in folder.parquet if name in names]
        found = [known_file(uri, options) for uri in known]
    else:
        entries = [entry for entry in manifest.files if entry.name in names]
        footers = (named_files(folder.uri, [entry], options) for entry in entries)
        found = [(files[0], footer) for files, footer in footers]
    files = {}
    for file, footer in found:
        shard = file.shard
        if (own := reviews.of(shard.uri, shard.fingerprint, footer.classes)) is not None:
            files[locate(file.uri, options)[1]] = replace(file, reviews=own)
    reviews.say_what_was_not_taken()
    return files
