"""Fingerprints from the content of shards, for stores whose times and ETags cannot be trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from cambox.sources.retry import from_storage
from cambox.sources.shards import Shard
from cambox.sources.storage import open_stream
from cambox.sources.stream import StoredBytes

SHARDS_AT_ONCE = 8
CHUNK_BYTES = 1 << 20


def with_content_fingerprints(
    shards: Sequence[Shard], storage_options: Mapping[str, Any] | None = None
) -> list[Shard]:
    """The same shards with a SHA-256 of their bytes as fingerprint; reads every shard once.

    Raises:
        OSError: the storage failed.
    """

    def digest(shard: Shard) -> str:
        found = hashlib.sha256()
        with open_stream(shard.uri, storage_options) as stored:
            stream = StoredBytes(stored, shard)
            # What ends early is a cut connection, not another content.
            while chunk := stream.read(CHUNK_BYTES):
                found.update(chunk)
        return found.hexdigest()

    def read(shard: Shard) -> Shard:
        found = from_storage(shard.uri, lambda: digest(shard))
        return replace(shard, fingerprint=f"sha256={found}")

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        return list(pool.map(read, shards))
