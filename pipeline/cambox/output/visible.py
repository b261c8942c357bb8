"""The files that are visible in a folder: their names, and by their ends what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cambox.output.footer import NotOursError, read_end
from cambox.output.known_file import published_file
from cambox.output.published_file import PublishedFile
from cambox.output.snapshot import FOOTERS_AT_ONCE
from cambox.sources.listing import list_folder
from cambox.sources.storage import locate


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
