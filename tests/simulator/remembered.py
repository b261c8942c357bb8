"""What is the same from one history to the next is worked out once.

Each of these is a function of its arguments alone, and what it gives first is the product's own
answer. Without them most of the time of a history goes to the same few bytes again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tenacity

import cambox.output.footer
import cambox.output.known_file
import cambox.output.publish
import cambox.verify.file
from cambox.output.footer import DIGEST_KEY, FileEnd, Footer
from cambox.sources.storage import canonical_uri, protocol_of

# The real ones, before anything is replaced.
_TO_PARQUET = cambox.output.publish.to_parquet
_PARSED_END = cambox.output.footer._parsed_end
_PUBLISHED_FILE = cambox.output.known_file.published_file
_ROWS = cambox.verify.file._rows
_KNOWN: dict[tuple[Any, ...], Any] = {}


def _once(key: tuple[Any, ...], answer: Callable[[], Any]) -> Any:
    if key not in _KNOWN:
        _KNOWN[key] = answer()
    return _KNOWN[key]


def _digest(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _to_parquet(rows: pa.Table) -> Any:
    metadata = tuple(sorted(rows.schema.metadata.items()))
    return _once(("bytes", metadata, *rows["key"].to_pylist()), lambda: _TO_PARQUET(rows))


def _parsed_end(uri: str, tail: bytes, size: int) -> Any:
    return _once(("end", _digest(tail), size), lambda: _PARSED_END(uri, tail, size))


def _published_file(uri: str, end: FileEnd, *options: Any) -> Any:
    known = "file", uri, end.digest, end.size
    return _once((*known, *map(str, options)), lambda: _PUBLISHED_FILE(uri, end, *options))


def _parquet_file(source: pa.BufferReader, metadata: Any = None, **how: Any) -> Any:
    # Metadata that is given is itself one that is remembered, and so no other's is at its address.
    key = "parquet", _digest(source.read()), id(metadata), *how.items()
    return _once(key, lambda: pq.ParquetFile(source, metadata=metadata, **how))


def _rows(uri: str, data: bytes, file: Any, footer: Footer, *told: Any) -> Any:
    findings, statuses = told
    # It has the digest of all bytes before it, which has been compared.
    key = "rows", uri, footer.recipe_digest, file.metadata.metadata[DIGEST_KEY]
    if key not in _KNOWN:
        counts: Counter[str] = Counter()
        checks = _ROWS(uri, data, file, footer, findings, counts)
        if checks is None or findings.problems():
            return checks
        _KNOWN[key] = checks, counts
    checks, counts = _KNOWN[key]
    statuses.update(counts)
    return checks


class _Retrying:
    """tenacity, which is asked only of failures that can pass; most requests do not fail."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def __call__(self, fn: Callable[[], Any]) -> Any:
        try:
            return fn()
        except BaseException as error:
            if not self.settings["retry"].predicate(error):
                raise
            failures = [error]

        def first_as_it_was() -> Any:
            if failures:
                raise failures.pop()
            return fn()

        return tenacity.Retrying(**self.settings)(first_as_it_was)


_PARQUET = SimpleNamespace(ParquetFile=_parquet_file, FileMetaData=pq.FileMetaData)

REPLACEMENTS: dict[str, object] = {
    "cambox.output.publish.to_parquet": _to_parquet,
    "cambox.output.footer._parsed_end": _parsed_end,
    "cambox.output.published_file.pq": _PARQUET,
    "cambox.verify.file.pq": _PARQUET,
    "cambox.verify.file._rows": _rows,
    "cambox.nightly.report.version": cache(version),
    "cambox.sources.storage.protocol_of": cache(protocol_of),
    "cambox.sources.storage.canonical_uri": cache(canonical_uri),
    "cambox.sources.retry.Retrying": _Retrying,
    "cambox.sources.retry.wait_exponential_jitter": cache(tenacity.wait_exponential_jitter),
    "cambox.sources.retry.stop_after_attempt": cache(tenacity.stop_after_attempt),
    **{
        f"cambox.output.{module}.file_name": cache(cambox.output.publish.file_name)
        for module in ("commit", "ledger", "publish")
    },
    **{
        f"cambox.output.{module}.published_file": _published_file
        for module in ("commit", "known_file", "snapshot")
    },
}
