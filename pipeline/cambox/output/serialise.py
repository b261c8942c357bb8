"""A table as the bytes of a Parquet file that can tell later whether they are still the same."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 10_000
DIGEST_KEY = b"cambox.data"


def to_parquet(annotations: pa.Table) -> bytes:
    """A whole Parquet file.

    Page checksums cover the pages but not their headers, where a flipped bit may read as other
    numbers; so the footer also gets the SHA-256 of all that lies before it.
    """
    # In memory: a writer on the final path would, when it fails half-way, leave a short file that
    # reads without an error.
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer, annotations.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        writer.write_table(annotations, row_group_size=ROW_GROUP_ROWS)
        data = buffer.getbuffer()
        digest = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        data.release()
        writer.add_key_value_metadata({DIGEST_KEY: json.dumps(digest).encode()})
    return buffer.getvalue()


def is_intact(file: bytes, metadata: Mapping[bytes, bytes]) -> bool:
    """Whether the bytes before the footer are those that were written.

    Args:
        metadata: the file's own key-value metadata.

    Raises:
        KeyError: the footer has no digest.
        ValueError: the digest does not parse.
    """
    digest = json.loads(metadata[DIGEST_KEY])
    if not (isinstance(digest, dict) and digest.keys() == {"bytes", "sha256"}):
        raise ValueError(f"{DIGEST_KEY.decode()} is {digest!r}, expected bytes and sha256")
    actual = hashlib.sha256(memoryview(file)[: digest["bytes"]]).hexdigest()
    return actual == str(digest["sha256"])
