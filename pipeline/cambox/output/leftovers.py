"""Temporary files of publishers that died; Parquet readers skip them, and so does everything."""

from __future__ import annotations

import stat
import time
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from cambox.config import OutputSettings
from cambox.output.publish import is_temporary, recipe_uri
from cambox.output.recipe import Recipe
from cambox.sources.storage import locate

# Publishing takes seconds. What is a day old has no live owner, on this machine or another.
SECONDS_UNTIL_ABANDONED = 24 * 3600.0


def remove_leftovers(output: OutputSettings, recipe: Recipe) -> int:
    """Delete abandoned temporary files of a recipe's folder and say how many there were.

    Only a local folder can hold any: an object store shows an object once it is complete.
    """
    filesystem, folder = locate(recipe_uri(output, recipe), output.storage_options)
    if not isinstance(filesystem, LocalFileSystem):
        return 0
    abandoned = [path for path in Path(folder).glob(".*.parquet.*") if _is_abandoned(path)]
    for path in abandoned:
        path.unlink(missing_ok=True)
    return len(abandoned)


def _is_abandoned(path: Path) -> bool:
    try:
        # Of the name itself: what a link leads to is none of ours.
        status = path.lstat()
    except FileNotFoundError:
        # Another driver has published it meanwhile.
        return False
    old = time.time() - status.st_mtime > SECONDS_UNTIL_ABANDONED
    return old and is_temporary(path.name) and not stat.S_ISDIR(status.st_mode)
