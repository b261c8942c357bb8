"""What is to be reboxed: an output with maps, and of each of its files whether it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem

from cambox.config import BoxSettings
from cambox.config_file import override_boxes
from cambox.errors import RequestError
from cambox.output.folders import Folder
from cambox.output.footer import PREFIX, Footer
from cambox.output.ledger import FOOTERS_AT_ONCE, read_metadata
from cambox.output.publish import file_name
from cambox.output.recipe import Recipe, recipe_digest
from cambox.output.serialise import DIGEST_KEY

SOURCE_KEY = f"{PREFIX}source".encode()
"""The footer's entry that says which bytes of the source a file was made from."""


@dataclass(frozen=True)
class SourceFile:
    """A file of the source.

    Attributes:
        came_from: what ``SOURCE_KEY`` of its successor says.
    """

    path: str
    uri: str
    footer: Footer
    came_from: str

    @property
    def name(self) -> str:
        """Of the file that is made from it."""
        return file_name(self.footer.shard.uri)


def reboxed_recipe(source: Footer, overrides: Sequence[str]) -> Recipe:
    """The source's recipe with other boxes; ``rebox.maps_of`` names the recipe that made the maps.

    Raises:
        RequestError: the source has no maps or is of another cambox, or an override is wrong.
    """
    settings: dict[str, Any] = json.loads(source.recipe)
    try:
        if not settings["output"]["store_maps"]:
            raise RequestError(
                "OUTPUT holds no maps to make boxes from; annotate once more with "
                "--set output.store_maps=true"
            )
        boxes = override_boxes(BoxSettings.model_validate(settings["boxes"]), overrides)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            "OUTPUT: its recipe is of another cambox; run cambox annotate again"
        ) from error
    settings["boxes"] = boxes.model_dump()
    # Boxes follow from maps and settings, through however many steps these were arrived at.
    settings.setdefault("rebox", {"maps_of": source.recipe_digest})
    text = json.dumps(settings, sort_keys=True)
    return Recipe(text, source.classes, recipe_digest(text, source.classes))


def source_files(filesystem: AbstractFileSystem, folder: Folder) -> list[SourceFile]:
    """The files of the source, by their footers alone.

    Raises:
        RequestError: a file is damaged, not of cambox, or of another recipe than the others.
        OSError: the storage failed.
    """
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        every = list(pool.map(lambda path: read_metadata(filesystem, path), folder.parquet))
    files = [
        _source_file(folder, path, metadata)
        for path, metadata in zip(folder.parquet, every, strict=True)
    ]
    for file in files:
        if file.footer.recipe_digest != files[0].footer.recipe_digest:
            raise RequestError(
                f"{file.uri} is of another recipe than {files[0].uri}; run cambox verify, and "
                "move one of them away"
            )
    return files


def _source_file(folder: Folder, path: str, metadata: Mapping[bytes, bytes] | None) -> SourceFile:
    uri = folder.uri_of(path)
    try:
        footer = Footer.from_metadata(metadata or {})
        data = json.loads((metadata or {})[DIGEST_KEY])
        came_from = {"recipe_digest": footer.recipe_digest, "sha256": data["sha256"]}
    except (KeyError, ValueError, TypeError) as error:
        raise RequestError(
            f"{uri} is damaged or not of this cambox; run cambox verify, then cambox annotate again"
        ) from error
    return SourceFile(path, uri, footer, json.dumps(came_from, sort_keys=True))


def is_done(file: SourceFile, recipe: Recipe, made: Mapping[bytes, bytes] | None) -> bool:
    """Whether a file's successor is there, made from these bytes under this recipe.

    Args:
        made: the successor's key-value metadata, if it has any.
    """
    try:
        footer = Footer.from_metadata(made or {})
    except (KeyError, ValueError, TypeError):
        return False
    return footer.recipe_digest == recipe.digest and (made or {}).get(SOURCE_KEY) == (
        file.came_from.encode()
    )
