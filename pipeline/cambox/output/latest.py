"""``latest``: which recipe's folder readers should take, moved only when it covers everything.

Object stores have no links, so the pointer is a file, ``OUTPUT/_latest.json``. A local output has
the symbolic link ``OUTPUT/latest`` as well.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.exchange import Seen, put, read_seen
from cambox.output.manifest import Sha256, chain, newest_manifest
from cambox.output.publish import MOST_ROUNDS
from cambox.output.whole import NO_LINKS, name_beside, sync_folder
from cambox.sources.storage import locate

POINTER = "_latest.json"
LINK = "latest"


class Latest(BaseModel):
    """What the pointer says.

    Attributes:
        recipe: the name of the recipe's folder.
        uri: of that folder, as the run that moved the pointer knew it.
        run: the name of that run's report.
        shards, rows: published in the folder at that time.
        manifest: what was published then, to the byte; None: an older cambox moved the pointer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A plain name: what is read from a file must not lead elsewhere.
    recipe: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    uri: str
    run: str
    shards: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=0)]
    moved_at: datetime
    manifest: Sha256 | None = None


def latest_folder(output: OutputSettings) -> str | None:
    """The URI of the folder to read; None where no run has covered its whole input yet.

    It is beside the pointer, so it stays right where an output is mounted or copied elsewhere.

    Raises:
        RequestError: the pointer is damaged.
        OSError: the storage failed.
    """
    pointer = read_latest(output)
    return None if pointer is None else f"{output.uri.rstrip('/')}/{pointer.recipe}"


def read_latest(output: OutputSettings) -> Latest | None:
    """What the pointer says; None where there is none.

    Raises:
        RequestError: the pointer is damaged.
        OSError: the storage failed.
    """
    return _seen_latest(output)[1]


def _seen_latest(output: OutputSettings) -> tuple[Seen, Latest | None]:
    uri = f"{output.uri.rstrip('/')}/{POINTER}"
    seen, text = read_seen(uri, output.storage_options)
    if text is None:
        return seen, None
    try:
        return seen, Latest.model_validate_json(text)
    except ValidationError as error:
        raise RequestError(
            f"{uri}: not a pointer to a recipe's folder; delete it, and the next complete night "
            "writes it again"
        ) from error


def check_latest(output: OutputSettings) -> Latest | None:
    """See before a run that ``latest`` can be moved after it; and where it is now.

    Raises:
        RequestError: something that is no link has its name, or the pointer is damaged.
        OSError: the storage failed.
    """
    filesystem, path = locate(output.uri, output.storage_options)
    link = Path(path) / LINK
    if isinstance(filesystem, LocalFileSystem) and link.exists() and not link.is_symlink():
        raise RequestError(
            f"output.uri: {link} is in the way of the link to the latest recipe; move it elsewhere"
        )
    return read_latest(output)


def move_latest(output: OutputSettings, latest: Latest) -> Latest:
    """Point to another folder, or to the same one after another run; at once, never half.

    Returns:
        What the pointer says now: another night's, where that is ahead of this one and has moved it
        already.

    Raises:
        RequestError: the pointer is damaged.
        OSError: the storage failed.
    """
    text = latest.model_dump_json(indent=2).encode() + b"\n"
    for _ in range(MOST_ROUNDS):
        seen, there = _seen_latest(output)
        if there is not None and _is_ahead(output, there, latest):
            return there
        if put(seen, text, output.storage_options):
            break
    else:
        raise OSError(f"{seen.uri}: others have moved it {MOST_ROUNDS} times meanwhile")
    filesystem, path = locate(output.uri, output.storage_options)
    if isinstance(filesystem, LocalFileSystem):
        # To where the pointer leads now; another night may have moved it on from here.
        _move_link(Path(path) / LINK, (read_latest(output) or latest).recipe)
    return latest


def _is_ahead(output: OutputSettings, there: Latest, ours: Latest) -> bool:
    """Whether what the pointer says is of a later night than this one, which is late then."""
    if there.recipe != ours.recipe or None in (there.manifest, ours.manifest):
        # Their names begin with the time at which they began.
        return there.run > ours.run
    folder = f"{output.uri.rstrip('/')}/{ours.recipe}"
    _, newest = newest_manifest(folder, output.storage_options)
    if newest == ours.manifest or there.manifest == ours.manifest:
        return False
    for digest, _ in chain(folder, newest, output.storage_options):
        if digest in (there.manifest, ours.manifest):
            return digest == there.manifest
    return False


def _move_link(link: Path, recipe: str) -> None:
    if link.is_symlink() and link.readlink() == Path(recipe):
        return
    beside = link.with_name(name_beside(link.name))
    try:
        # Relative, so that it survives a move of the whole output.
        beside.symlink_to(recipe, target_is_directory=True)
    except OSError as error:
        # A mounted object store has no links; there the pointer has to do.
        if error.errno in NO_LINKS:
            return
        raise
    try:
        beside.replace(link)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(link.parent)
