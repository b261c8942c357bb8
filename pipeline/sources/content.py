"""Fingerprints from the content of shards, for stores whose times and ETags cannot be trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pipeline.sources.shards import Shard
from pipeline.sources.storage import open_stream, storage_failures

SHARDS_AT_ONCE = 8
CHUNK_BYTES = 1 << 20


def with_content_fingerprints(
    shards: Sequence[Shard], storage_options: Mapping[str, Any] | None = None
) -> list[Shard]:
    """The same shards with a SHA-256 of their bytes as fingerprint; reads every shard once.

    Raises:
        OSError: the storage failed.
    """

    def read(shard: Shard) -> Shard:
        digest = hashlib.sha256()
        with storage_failures(shard.uri), open_stream(shard.uri, storage_options) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return replace(shard, fingerprint=f"sha256={digest.hexdigest()}")

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        return list(pool.map(read, shards))
