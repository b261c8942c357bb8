"""The end of a run: a manifest of what is published, from footers and the bytes that are new."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.footer import NotOursError, Recipe, end_of
from cambox.output.known_file import files_in, published_file
from cambox.output.manifest import (
    GivenUpShard,
    Manifest,
    ManifestFile,
    newest_manifest,
    read_manifest,
    write_manifest,
)
from cambox.output.publish import MOST_ROUNDS, file_name, recipe_uri
from cambox.output.published_file import PublishedFile
from cambox.sources.retry import read_whole
from cambox.sources.shards import Shard

# Each holds one file in memory.
FILES_AT_ONCE = 8


@dataclass(frozen=True)
class Found:
    """What a recipe's folder held when it was looked at.

    Attributes:
        files: by name; None for one that is not whole or not ours.
        manifest: the newest one just before; as long as it stays, nobody else has ended a run.
    """

    files: Mapping[str, PublishedFile | None]
    manifest: str | None


def find(output: OutputSettings, recipe: Recipe) -> Found:
    """Look at a recipe's folder; only footers are read.

    Raises:
        RequestError: the pointer to its newest manifest is damaged.
        OSError: the folder cannot be listed, or a footer cannot be read.
    """
    folder = recipe_uri(output, recipe)
    _, newest = newest_manifest(folder, output.storage_options)
    return Found(files_in(folder, output.storage_options), newest)


def commit(
    output: OutputSettings,
    recipe: Recipe,
    shards: Sequence[Shard],
    given_up: Sequence[GivenUpShard],
    now: datetime,
    found: Found | None = None,
    done: Iterable[Shard] = (),
) -> str:
    """Write the manifest of a run that ends, unless the newest one says the same.

    Only files that the newest manifest does not have are read whole.

    Args:
        shards: of the input.
        found: what was found before the run; None: look now.
        done: shards whose files the run has written since.

    Returns:
        The digest of the manifest that is the newest now.

    Raises:
        RequestError: the pointer to the newest manifest is damaged.
        OSError: the storage failed.
    """
    folder, options = recipe_uri(output, recipe), output.storage_options
    written = [file_name(shard.uri) for shard in done]
    not_done = {file_name(one.shard) for one in given_up}
    for _ in range(MOST_ROUNDS):
        pointer, newest = newest_manifest(folder, options)
        if found is None or found.manifest != newest:
            # Another run has ended since: it may have replaced what this one took for done.
            found = Found(files_in(folder, options), newest)
        elif written:
            again = files_in(folder, options, written)
            found = Found({**found.files, **again}, newest)
        for name in written:
            if name not in found.files and name not in not_done:
                raise OSError(
                    f"{folder}/{name} was published, and is not there when it is read; see that "
                    "all workers write to one storage, and run the same command again"
                )
        before = None
        if newest is not None:
            # Whatever may have become of it, this one is read off the files themselves.
            with suppress(RequestError):
                before = read_manifest(folder, newest, options)
        manifest = Manifest(
            recipe=recipe.folder,
            recipe_digest=recipe.digest,
            settings=json.loads(recipe.settings),
            shards=tuple((shard.uri, shard.fingerprint) for shard in shards),
            files=_entries(found.files, recipe, before),
            given_up=tuple(given_up),
            previous=newest,
            created_at=now,
        )
        if newest is not None and before is not None and manifest.says_the_same_as(before):
            return newest
        digest = write_manifest(folder, manifest, pointer, options)
        if digest is not None:
            return digest
    raise OSError(f"{folder}: other runs have ended {MOST_ROUNDS} times while this one did")


def _entries(
    files: Mapping[str, PublishedFile | None], recipe: Recipe, before: Manifest | None
) -> tuple[ManifestFile, ...]:
    """One file for each shard, by name."""
    of_shard: dict[str, PublishedFile] = {}
    for _, file in sorted(files.items()):
        if file is None or file.recipe_digest != recipe.digest:
            continue
        # A copy under another name is not a second file of it.
        if file.name == file_name(file.shard.uri) or file.shard.uri not in of_shard:
            of_shard[file.shard.uri] = file
    known = {(entry.name, entry.footer_sha256): entry for entry in before.files} if before else {}

    def entry(file: PublishedFile) -> ManifestFile | None:
        return known.get((file.name, file.footer_digest)) or _read(file, recipe)

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        entries = [entry for entry in pool.map(entry, of_shard.values()) if entry is not None]
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _read(file: PublishedFile, recipe: Recipe) -> ManifestFile | None:
    """A file by its bytes, which may be newer than the footer that was read; None: it is gone."""
    try:
        data = read_whole(file.uri, file.storage_options)
        read, _ = published_file(file.uri, end_of(file.uri, io.BytesIO(data)))
    except (FileNotFoundError, NotOursError):
        return None
    if read.recipe_digest != recipe.digest:
        return None
    return ManifestFile(
        name=read.name,
        size=read.size,
        sha256=hashlib.sha256(data).hexdigest(),
        footer_sha256=read.footer_digest,
        rows=read.rows,
        shard=read.shard.uri,
        fingerprint=read.shard.fingerprint,
    )
