"""Whether one published file is whole, says truly where it comes from, and has the rows it owes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from cambox.output.footer import PREFIX, Footer
from cambox.output.recipe import SCHEMA_VERSION, folder_name, recipe_digest
from cambox.output.rows import schema
from cambox.output.serialise import is_intact
from cambox.sources.retry import from_storage
from cambox.verify.findings import Check, Findings, Problem
from cambox.verify.input import InputRule, check_against_input
from cambox.verify.rows import RowChecks

ROWS_AT_ONCE = 4096


class DamagedFileError(ValueError):
    """A file's bytes are not those of a whole Parquet file."""


@dataclass(frozen=True)
class Origin:
    """What a file's footer says of where it comes from, as far as other files can contradict it.

    Attributes:
        recipe: settings and class list; None where they are not those of the folder.
        versions: (library, version) pairs.
    """

    shard_uri: str
    recipe: int | None
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FileReport:
    """What the check of one file found; ``origin`` is None where no footer could be read."""

    origin: Origin | None
    rows: int
    statuses: Counter[str]
    problems: tuple[Problem, ...]


def verify_file(
    filesystem: AbstractFileSystem,
    path: str,
    uri: str,
    folder: str,
    input_rule: InputRule | None = None,
) -> FileReport:
    """Check one file on its own, holding it in memory.

    Args:
        uri: names the file in problems.
        folder: the name of its recipe's folder.
        input_rule: None: leave the input alone.
    """
    findings = Findings(uri)
    origin: Origin | None = None
    statuses: Counter[str] = Counter()
    try:
        data = from_storage(uri, lambda: filesystem.cat_file(path))
    except OSError as error:
        text = f"the storage does not give it: {type(error).__name__}: {error}; check access to it"
        return FileReport(None, 0, statuses, (Problem.of(uri, Check.unreadable, text),))
    try:
        with _damage():
            file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        metadata = file.metadata.metadata or {}
        footer = _footer(metadata, findings)
        if footer is not None:
            _require_intact(data, metadata, findings)
            origin = _origin(footer, folder, findings)
            keys = _rows(file, footer, findings, statuses)
            if input_rule is not None and keys is not None:
                check_against_input(footer.shard, keys, input_rule, findings)
    except DamagedFileError as error:
        findings.add(Check.unreadable, f"{error}; delete the file and run cambox annotate again")
    return FileReport(origin, statuses.total(), statuses, tuple(findings.problems()))


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever Arrow trips over in bytes that no writer wrote.
        raise DamagedFileError(f"{type(error).__name__}: {error}") from error


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    with _damage():
        batches = file.iter_batches(ROWS_AT_ONCE)
    while True:
        with _damage():
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        if batch is None:
            return
        yield batch


def _footer(metadata: Mapping[bytes, bytes], findings: Findings) -> Footer | None:
    try:
        footer = Footer.from_metadata(metadata)
    except KeyError as error:
        findings.add(Check.footer, f"{error.args[0].decode()} is missing; cambox did not make it")
        return None
    except (ValueError, TypeError) as error:
        findings.add(Check.footer, f"an entry does not parse: {error}")
        return None
    if footer.schema_version != SCHEMA_VERSION:
        findings.add(
            Check.footer,
            f"{PREFIX}schema_version {footer.schema_version} is unknown to this cambox, which "
            f"knows {SCHEMA_VERSION}; use the version that made the file",
        )
        return None
    shard = footer.shard
    types = (
        (shard.uri, str),
        (shard.size, int),
        (shard.fingerprint, str),
        (footer.versions, Mapping),
        *((name, str) for name in footer.classes),
    )
    if not all(isinstance(value, kind) for value, kind in types):
        findings.add(Check.footer, "an entry is of the wrong type")
        return None
    return footer


def _require_intact(data: bytes, metadata: Mapping[bytes, bytes], findings: Findings) -> None:
    try:
        intact = is_intact(data, metadata)
    except KeyError as error:
        findings.add(Check.footer, f"{error.args[0].decode()} is missing; cambox did not make it")
        return
    except (ValueError, TypeError) as error:
        findings.add(Check.footer, f"an entry does not parse: {error}")
        return
    if not intact:
        raise DamagedFileError("the bytes before the footer are not those that were written")


def _origin(footer: Footer, folder: str, findings: Findings) -> Origin:
    recipe: int | None = hash((footer.recipe, footer.classes))
    if footer.recipe_digest != recipe_digest(footer.recipe, footer.classes):
        findings.add(
            Check.recipe, f"{footer.recipe_digest} is not the digest of the recipe in the footer"
        )
        recipe = None
    elif folder_name(footer.recipe_digest) != folder:
        findings.add(Check.recipe, f"made by {footer.recipe_digest}, and lies in {folder}")
        recipe = None
    versions = tuple((str(name), str(version)) for name, version in footer.versions.items())
    return Origin(footer.shard.uri, recipe, versions)


def _rows(
    file: pq.ParquetFile, footer: Footer, findings: Findings, statuses: Counter[str]
) -> Sequence[str] | None:
    """Check all rows and count their statuses; the keys in order, or None for a wrong schema."""
    expected = schema(_stores_maps(footer))
    with _damage():
        actual = file.schema_arrow
    if not actual.equals(expected):
        findings.add(Check.schema, _difference(expected, actual))
        return None
    checks = RowChecks(footer.shard.uri, footer.classes, findings)
    for batch in _batches(file):
        checks.check(batch)
        statuses.update(batch["status"].to_pylist())
    if len(checks.keys) != file.metadata.num_rows:
        findings.add(
            Check.unreadable,
            f"{len(checks.keys)} rows where the footer counts {file.metadata.num_rows}",
        )
    return checks.keys


def _stores_maps(footer: Footer) -> bool:
    try:
        return bool(json.loads(footer.recipe)["output"]["store_maps"])
    except (ValueError, KeyError, TypeError):
        # A recipe of another make; what it is worth is the digest's matter.
        return False


def _difference(expected: pa.Schema, actual: pa.Schema) -> str:
    for field in expected:
        if field.name not in actual.names:
            return f"the column {field.name} is missing"
        if actual.names.count(field.name) > 1:
            return f"the column {field.name} is there twice"
        if not actual.field(field.name).equals(field):
            return f"the column is {actual.field(field.name)}, the contract says {field}"
    more = [name for name in actual.names if name not in expected.names]
    if more:
        return f"the column {more[0]} is not in the contract"
    return f"the columns are in the order {', '.join(actual.names)}"
