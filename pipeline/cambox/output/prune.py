"""Which of what nights have left is needed no more: old manifests, and files that none names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console

from cambox.config import OutputSettings
from cambox.console import counted, say
from cambox.output.folders import RECIPE_FOLDER
from cambox.output.latest import read_latest
from cambox.output.lease import held
from cambox.output.manifest import Manifest, Options, chain, newest_manifest, runs_uri
from cambox.output.publish import RUNS
from cambox.sources.listing import Info, list_folder
from cambox.sources.retry import as_request, from_storage
from cambox.sources.storage import locate, modified_at

# A run that ends writes what it names before what names it.
SAFE_AGE = timedelta(days=1)


@dataclass(frozen=True)
class Pruned:
    """What is needed no more of one recipe, and was removed if that was asked for.

    Attributes:
        kept: manifests that stay, the newest first.
        manifests, files: URIs of manifests, and of replaced files that no kept one names.
        size: of those files, in bytes.
        young: how many of either kind stay although nothing names them, as they are not a day old.
    """

    recipe: str
    kept: tuple[str, ...]
    manifests: tuple[str, ...]
    files: tuple[str, ...]
    size: int
    young: int

    def to_json(self) -> dict[str, Any]:
        """The same for machines, in plain types."""
        return dict(vars(self))


def prune(
    output: OutputSettings, keep: int, now: datetime, *, delete: bool = False
) -> list[Pruned]:
    """Find what only manifests need that are older than the newest ``keep`` of their recipe.

    The manifest that ``latest`` names stays with all that it names, whatever its age. Files in the
    recipes' folders are never touched.

    Args:
        keep: manifests of each recipe, at least one.
        now: by which what is younger than a day stays.
        delete: remove it, holding the lease of each recipe meanwhile.

    Raises:
        UnavailableError: a run is at work on a recipe, which is not pruned beside it.
        RequestError: the output cannot be listed, or a pointer in it is damaged.
    """
    root = output.uri.rstrip("/")
    with as_request(f"{output.uri} cannot be pruned"):
        latest = read_latest(output)
        recipes = sorted(_listing(f"{root}/{RUNS}", output.storage_options))
        result = []
        for recipe in recipes:
            if RECIPE_FOLDER.fullmatch(recipe) is None:
                continue
            folder = f"{root}/{recipe}"
            named = latest.manifest if latest is not None and latest.recipe == recipe else None
            # A run that begins meanwhile would replace what this has just found to be in its place.
            with held(folder, output.storage_options) if delete else nullcontext():
                found = _prunable(folder, named, keep, now, output.storage_options)
                if delete:
                    # Manifests first: none is ever left whose files are gone.
                    for uri in (*found.manifests, *found.files):
                        _remove(uri, output.storage_options)
            result.append(found)
        return result


def _prunable(
    folder: str, latest: str | None, keep: int, now: datetime, options: Options
) -> Pruned:
    kept: dict[str, Manifest] = {}
    _, newest = newest_manifest(folder, options)
    for digest, manifest in chain(folder, newest, options):
        if len(kept) == keep:
            break
        kept[digest] = manifest
    kept |= dict(_first(folder, latest, options))
    needed = {file.sha256 for manifest in kept.values() for file in manifest.files}
    runs = runs_uri(folder)
    manifests = _listing(f"{runs}/manifests", options)
    files = _listing(f"{runs}/replaced", options)
    # Where it is not known what is the newest, all may be needed.
    known = newest is not None
    unneeded_manifests = [
        name for name in manifests if known and name.removesuffix(".json") not in kept
    ]
    unneeded_files = [name for name in files if known and name not in needed]
    old_manifests = [name for name in unneeded_manifests if _is_old(manifests[name], now)]
    old_files = [name for name in unneeded_files if _is_old(files[name], now)]
    return Pruned(
        recipe=folder.rpartition("/")[2],
        kept=tuple(kept),
        manifests=tuple(f"{runs}/manifests/{name}" for name in sorted(old_manifests)),
        files=tuple(f"{runs}/replaced/{name}" for name in sorted(old_files)),
        size=sum(int(files[name].get("size") or 0) for name in old_files),
        young=len(unneeded_manifests) + len(unneeded_files) - len(old_manifests) - len(old_files),
    )


def _first(folder: str, digest: str | None, options: Options) -> Iterator[tuple[str, Manifest]]:
    for pair in chain(folder, digest, options):
        yield pair
        return


def _is_old(info: Info, now: datetime) -> bool:
    moment = modified_at(info)
    return moment is not None and now - moment > SAFE_AGE


def _listing(uri: str, options: Options) -> Mapping[str, Info]:
    """What lies directly in a folder, by name; nothing where there is no such folder."""
    filesystem, path = locate(uri, options)
    filesystem.invalidate_cache()
    with suppress(FileNotFoundError):
        infos = list_folder(filesystem, path)
        names = {info["name"].rstrip("/").rpartition("/")[2]: info for info in infos}
        return {name: info for name, info in names.items() if name and name[0] not in "._"}
    return {}


def _remove(uri: str, options: Options) -> None:
    filesystem, path = locate(uri, options)
    with suppress(FileNotFoundError):
        from_storage(uri, lambda: filesystem.rm_file(path))


def print_pruned(pruned: list[Pruned], deleted: bool, console: Console) -> None:
    """A line a recipe, and how to remove what was only found."""
    for one in pruned:
        what = f"{counted(len(one.manifests), 'manifest')}, {counted(len(one.files), 'file')}"
        young = f"; {one.young} more are not a day old" if one.young else ""
        say(
            console,
            f"{one.recipe}: {len(one.kept)} kept; {'removed' if deleted else 'not needed'}: {what} "
            f"of {one.size / 1e6:.1f} MB{young}",
        )
    if not deleted and any(one.manifests or one.files for one in pruned):
        say(console, "nothing is removed yet: add --delete")
