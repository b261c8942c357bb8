"""The shards that rows were made from, where they are now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cambox.errors import RequestError
from cambox.output.reading import PublishedFile
from cambox.sources.listing import describe
from cambox.sources.shards import Shard
from cambox.sources.storage import canonical_uri, fingerprint, locate, storage_failures


def shards_now(
    files: Sequence[PublishedFile],
    moved_to: str | None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Shard]:
    """The shard of each file, seen to be the one that was annotated.

    Args:
        moved_to: the folder or URL that holds the shards now, under their own names; a copy has
            another time, so it is known by its size alone. None: they are where they were.

    Raises:
        RequestError: a shard is gone or not the one that was annotated, or two have one name.
        OSError: the storage failed.
    """
    if moved_to is None:
        places = [file.shard for file in files]
    else:
        folder = canonical_uri(moved_to).rstrip("/")
        places = [replace(file.shard, uri=f"{folder}/{_name(file.shard.uri)}") for file in files]
        counts = Counter(place.uri for place in places)
        repeated = [uri for uri, count in counts.items() if count > 1]
        if repeated:
            raise RequestError(
                f"{repeated[0]} would be the place of several shards; keep their folders apart "
                "and use them where they were annotated"
            )
    with storage_failures(moved_to or "the shards"):
        infos = describe([locate(place.uri, storage_options) for place in places], lists=True)
        for place, info in zip(places, infos, strict=True):
            _require_same(place, info, moved_to is not None)
    return places


def _require_same(shard: Shard, info: Mapping[str, Any] | None, moved: bool) -> None:
    if info is None or info["type"] != "file":
        raise RequestError(f"{shard.uri} is not there; name the folder that holds the shards now")
    size = int(info.get("size") or 0)
    same_size = 0 in (size, shard.size) or size == shard.size
    # The fingerprint may be of the content, which only reading all of it would show.
    by_size = moved or shard.fingerprint.startswith("sha256=")
    if not (same_size if by_size else fingerprint(info) == shard.fingerprint):
        raise RequestError(
            f"{shard.uri} is not the file that was annotated ({shard.fingerprint}); run cambox "
            "annotate again, or name the folder that holds a copy of it"
        )


def _name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]
