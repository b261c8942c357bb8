"""Manifests: what a recipe's folder held when a run ended, to the byte; they never change.

A manifest's name is the SHA-256 of its bytes, and it names the one before it. A pointer says which
is a recipe's newest, and moves only from the manifest that the next one names.

    OUTPUT/_runs/<recipe>/newest.json
    OUTPUT/_runs/<recipe>/manifests/<sha256>.json
    OUTPUT/_runs/<recipe>/replaced/<sha256>          bytes whose name another file has now
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cambox.errors import RequestError
from cambox.output.exchange import Seen, put, read_seen
from cambox.output.publish import RUNS
from cambox.output.whole import publish_bytes
from cambox.sources.retry import read_whole

# Plain names: what is read from a file must not lead elsewhere.
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[^/._][^/]*\.parquet$")]
Options = Mapping[str, Any] | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ManifestFile(_Part):
    """A file of the recipe's folder.

    Attributes:
        footer_sha256: of its footer alone, by which it is known again without being read whole.
        shard, fingerprint: what its rows are of.
    """

    name: FileName
    size: int
    sha256: Sha256
    footer_sha256: Sha256
    rows: int
    shard: str
    fingerprint: str


class GivenUpShard(_Part):
    """A shard that is not published in this state; a file of an earlier one may be there."""

    shard: str
    fingerprint: str
    reason: str
    attempts: int


class Manifest(_Part):
    """What a recipe's folder held when a run ended.

    Attributes:
        recipe: the name of the folder.
        recipe_digest, settings: as in every footer.
        shards: of the run's input, URI and fingerprint each.
        files: of all shards that are published, also of those that are no longer in the input.
        given_up: shards of the input that this run could not do.
        previous: the manifest before it; None for the first.
    """

    schema_version: Literal[1] = 1
    recipe: str
    recipe_digest: Sha256
    settings: dict[str, Any]
    shards: tuple[tuple[str, str], ...]
    files: tuple[ManifestFile, ...]
    given_up: tuple[GivenUpShard, ...]
    previous: Sha256 | None
    created_at: datetime

    def says_the_same_as(self, other: Manifest) -> bool:
        """Whether only the time and the place in the chain differ."""
        return self == other.model_copy(
            update={"previous": self.previous, "created_at": self.created_at}
        )


class _Newest(_Part):
    manifest: Sha256


def runs_uri(folder_uri: str) -> str:
    """Where the manifests of a recipe's folder are."""
    root, _, recipe = folder_uri.rstrip("/").rpartition("/")
    return f"{root}/{RUNS}/{recipe}"


def manifest_uri(folder_uri: str, digest: str) -> str:
    """Where one manifest is."""
    return f"{runs_uri(folder_uri)}/manifests/{digest}.json"


def newest_manifest(folder_uri: str, storage_options: Options = None) -> tuple[Seen, str | None]:
    """The digest of a recipe's newest manifest, None before the first; and the pointer as seen.

    Raises:
        RequestError: the pointer is damaged.
        OSError: the storage failed.
    """
    uri = f"{runs_uri(folder_uri)}/newest.json"
    seen, data = read_seen(uri, storage_options)
    if data is None:
        return seen, None
    try:
        return seen, _Newest.model_validate_json(data).manifest
    except ValidationError as error:
        raise RequestError(
            f"{uri}: not a pointer to a manifest; delete it, and the next run writes it again"
        ) from error


def write_manifest(
    folder_uri: str, manifest: Manifest, pointer: Seen, storage_options: Options = None
) -> str | None:
    """Write a manifest, and then point to it; gives its digest.

    Args:
        pointer: as it was seen when it pointed to ``manifest.previous``.

    Returns:
        None: the pointer has moved meanwhile, so that another manifest is the newest.

    Raises:
        OSError: the storage failed.
    """
    data = manifest.model_dump_json().encode() + b"\n"
    digest = hashlib.sha256(data).hexdigest()
    publish_bytes(manifest_uri(folder_uri, digest), data, storage_options)
    text = _Newest(manifest=digest).model_dump_json().encode() + b"\n"
    return digest if put(pointer, text, storage_options) else None


def read_manifest(folder_uri: str, digest: str, storage_options: Options = None) -> Manifest:
    """Read a manifest of a recipe's folder.

    Raises:
        RequestError: it is not there, not what was written, or of a later cambox.
        OSError: the storage failed.
    """
    uri = manifest_uri(folder_uri, digest)
    try:
        data = read_whole(uri, storage_options)
    except FileNotFoundError as error:
        raise RequestError(
            f"{uri} is not there any more; run cambox annotate again, which writes another"
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise RequestError(
            f"{uri} is damaged: its bytes are not those that its name says; delete it and run "
            "cambox annotate again"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise RequestError(f"{uri} is of another version of cambox; use that one") from error


def chain(
    folder_uri: str, digest: str | None, storage_options: Options = None
) -> Iterator[tuple[str, Manifest]]:
    """A manifest and those before it, as far as they have not been removed.

    Raises:
        RequestError: one is damaged.
        OSError: the storage failed.
    """
    while digest is not None:
        try:
            manifest = read_manifest(folder_uri, digest, storage_options)
        except RequestError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return
            raise
        yield digest, manifest
        digest = manifest.previous
