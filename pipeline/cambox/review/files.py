"""The folder that a report is kept in (``--to``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cambox.errors import RequestError
from cambox.output.publish import publish_bytes


def require_folder(folder: Path) -> None:
    """Make the folder, before the work whose result goes there.

    Raises:
        RequestError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be made: {error.strerror}") from error


def write_files(folder: Path, files: Mapping[str, bytes | None]) -> list[Path]:
    """Write files into a folder, each whole or not at all, in place of older ones.

    Args:
        files: by name; None: there is nothing to write, and one of an earlier run, which would be
            of something else, is removed.

    Returns:
        The paths of those written.

    Raises:
        RequestError: they cannot be written.
    """
    written = []
    try:
        for name, data in files.items():
            path = folder / name
            if data is None:
                path.unlink(missing_ok=True)
            else:
                publish_bytes(str(path.absolute()), data)
                written.append(path)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be written: {error.strerror}") from error
    return written
