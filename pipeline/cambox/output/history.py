"""The recipes of an output, the oldest first, and what each changed: ``cambox list``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console

from cambox.config import OutputSettings
from cambox.console import Advance, counted, say
from cambox.errors import RequestError, some_of
from cambox.output.folders import Folder, recipe_folders
from cambox.output.footer import Footer
from cambox.output.known_file import files_in, known_file
from cambox.output.latest import read_latest
from cambox.sources.listing import list_folder
from cambox.sources.storage import locate, modified_at

CHANGES_SHOWN = 8
_VALUE_LENGTH = 24


@dataclass(frozen=True)
class ListedRecipe:
    """A recipe's folder, from its listing and its footers.

    Attributes:
        published_at: when its newest file was written; None where the storage does not say.
        files, rows: that are whole.
        damaged: files that are not, or are not of cambox.
        is_latest: ``latest`` points to it.
        changes: what differs from the recipe before, a setting each; None for the first one.
    """

    uri: str
    name: str
    published_at: datetime | None
    files: int
    rows: int
    damaged: int
    is_latest: bool
    changes: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The same for machines, in plain types."""
        moment = self.published_at.isoformat() if self.published_at else None
        return {**vars(self), "published_at": moment}


def list_recipes(output: str, on_recipe: Advance | None = None) -> list[ListedRecipe]:
    """List what an output holds; only footers are read.

    Args:
        on_recipe: called with the number of recipes, after each.

    Raises:
        RequestError: there is no such output, or it cannot be read.
    """
    folders = recipe_folders(output)
    found: list[tuple[ListedRecipe, Footer | None]] = []
    try:
        latest = read_latest(OutputSettings(uri=output))
        for folder in folders:
            found.append(_listed(folder, latest is not None and folder.name == latest.recipe))
            if on_recipe is not None:
                on_recipe(len(folders))
    except OSError as error:
        raise RequestError(f"{output} cannot be read: {error}; check access to it") from error
    found.sort(key=lambda one: (one[0].published_at is not None, one[0].published_at, one[0].uri))
    result: list[ListedRecipe] = []
    before: Footer | None = None
    for recipe, footer in found:
        changes = None if before is None or footer is None else tuple(_changes(before, footer))
        result.append(ListedRecipe(**{**vars(recipe), "changes": changes}))
        before = footer or before
    return result


def _listed(folder: Folder, is_latest: bool) -> tuple[ListedRecipe, Footer | None]:
    """A recipe, and the footer of its first whole file."""
    filesystem, path = locate(folder.uri, folder.storage_options)
    visible = set(folder.parquet)
    times = [
        moment
        for info in list_folder(filesystem, path)
        if info["name"].rstrip("/").rsplit("/", 1)[-1] in visible
        and (moment := modified_at(info)) is not None
    ]
    files = files_in(folder.uri, folder.storage_options)
    whole = [file for _, file in sorted(files.items()) if file is not None]
    footer = known_file(whole[0].uri, folder.storage_options)[1] if whole else None
    rows = sum(file.rows for file in whole)
    moment = max(times, default=None)
    damaged = len(files) - len(whole)
    listed = ListedRecipe(folder.uri, folder.name, moment, len(whole), rows, damaged, is_latest)
    return listed, footer


def _changes(before: Footer, after: Footer) -> Iterator[str]:
    old, new = (dict(_settings("", json.loads(footer.recipe))) for footer in (before, after))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"{key}: {_shown(old, key)} to {_shown(new, key)}"
    if before.classes != after.classes:
        yield f"classes: {some_of(before.classes, 2)} to {some_of(after.classes, 2)}"


def _settings(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The settings of a section and of those in it, by their whole key."""
    if not isinstance(value, dict) or not value:
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _settings(f"{prefix}.{key}" if prefix else key, inner)


def _shown(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "not there"
    text = json.dumps(settings[key], ensure_ascii=False)
    return text if len(text) <= _VALUE_LENGTH else f"{text[:_VALUE_LENGTH]}..."


def print_recipes(recipes: list[ListedRecipe], console: Console) -> None:
    """Two lines a recipe: what is there, and what is new about it."""
    for recipe in recipes:
        moment = recipe.published_at
        parts = [
            recipe.name,
            moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else "date unknown",
            counted(recipe.files, "file"),
            counted(recipe.rows, "row"),
            *([f"{recipe.damaged} damaged, see cambox verify"] if recipe.damaged else []),
            *(["latest"] if recipe.is_latest else []),
        ]
        say(console, "  ".join(parts))
        if recipe.changes is not None:
            shown = list(recipe.changes[:CHANGES_SHOWN])
            if (more := len(recipe.changes) - len(shown)) > 0:
                shown.append(f"and {more} more")
            say(console, f"    {', '.join(shown) or 'the same settings'}")
