"""Whether one published file is whole, says truly where it comes from, and has the rows it owes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cambox.errors import RequestError, ShardError
from cambox.output.folders import Folder
from cambox.output.footer import (
    PREFIX,
    SCHEMA_VERSION,
    Footer,
    NotOursError,
    damaged,
    folder_name,
    parsed,
    recipe_digest,
    require_a_file,
)
from cambox.output.publish import is_intact
from cambox.output.rows import schema
from cambox.sources.retry import read_whole, with_retries
from cambox.sources.samples import ANY_IMAGE, ImageRule, most_in_a_sample, read_samples
from cambox.sources.shards import Shard
from cambox.sources.states import state_of
from cambox.sources.storage import locate
from cambox.verify.findings import Findings, Problem
from cambox.verify.rows import RowChecks
from cambox.verify.statistics import check_statistics

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class FileReport:
    """What the check of one file found; of a footer that could be read, what others contradict.

    Attributes:
        shard_uri: None where no footer could be read.
        recipe: stands for settings and class list; None where they are not those of the folder.
        versions: (library, version) pairs.
        statuses: rows by status.
        several_images: rows whose sample has images that no row is of.
        sha256: of all its bytes; None where they could not be read.
    """

    shard_uri: str | None
    recipe: int | None
    versions: tuple[tuple[str, str], ...]
    statuses: Counter[str]
    several_images: int
    problems: tuple[Problem, ...]
    sha256: str | None = None


def verify_file(
    folder: Folder,
    name: str,
    against_input: bool = False,
    input_storage_options: Mapping[str, Any] | None = None,
) -> FileReport:
    """Check one file on its own, holding it in memory; arguments as of ``verify``."""
    uri = folder.uri_of(name)
    findings = Findings(uri)
    footer: Footer | None = None
    recipe: int | None = None
    statuses: Counter[str] = Counter()
    several_images = 0
    sha256: str | None = None
    try:
        filesystem, path = locate(uri, folder.storage_options)
        require_a_file(uri, filesystem, path)
        data = read_whole(uri, folder.storage_options)
        sha256 = hashlib.sha256(data).hexdigest()
        with parsed(uri):
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        metadata = file.metadata.metadata or {}
        footer = _footer(metadata, findings)
        if footer is not None:
            intact = True
            with _wrong_entries_found(findings):
                intact = is_intact(data, metadata)
            if not intact:
                raise damaged(uri, "the bytes before the footer are not those that were written")
            recipe = _recipe(footer, folder.name, findings)
            checks = _rows(uri, data, file, footer, findings, statuses)
            if checks is not None:
                several_images = checks.several_images
                if against_input:
                    _compare_with_input(footer, checks.keys, input_storage_options, findings)
    except NotOursError as error:
        findings.add("unreadable", str(error).removeprefix(f"{uri} "))
    except OSError as error:
        what = f"{type(error).__name__}: {error}"
        findings.add("unreadable", f"the storage does not give it: {what}; check access to it")
    return FileReport(
        footer.shard.uri if footer else None,
        recipe,
        tuple((str(name), str(made)) for name, made in footer.versions.items()) if footer else (),
        statuses,
        several_images,
        tuple(findings.problems()),
        sha256,
    )


def _footer(metadata: Mapping[bytes, bytes], findings: Findings) -> Footer | None:
    footer: Footer | None = None
    with _wrong_entries_found(findings):
        footer = Footer.from_metadata(metadata)
    if footer is None:
        return None
    if footer.schema_version != SCHEMA_VERSION:
        findings.add(
            "footer",
            f"{PREFIX}schema_version {footer.schema_version} is unknown to this cambox, which "
            f"knows {SCHEMA_VERSION}; use the version that made the file",
        )
        return None
    shard = footer.shard
    texts = (shard.uri, shard.fingerprint, *footer.classes)
    if not (
        all(isinstance(text, str) for text in texts)
        and isinstance(shard.size, int)
        and isinstance(footer.versions, Mapping)
    ):
        findings.add("footer", "an entry is of the wrong type")
        return None
    return footer


@contextmanager
def _wrong_entries_found(findings: Findings) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        findings.add("footer", f"{error.args[0].decode()} is missing; cambox did not make it")
    except (ValueError, TypeError) as error:
        findings.add("footer", f"an entry does not parse: {error}")


def _recipe(footer: Footer, folder: str, findings: Findings) -> int | None:
    if footer.recipe_digest != recipe_digest(footer.recipe, footer.classes):
        findings.add(
            "recipe", f"{footer.recipe_digest} is not the digest of the recipe in the footer"
        )
        return None
    if folder_name(footer.recipe_digest) != folder:
        findings.add("recipe", f"made by {footer.recipe_digest}, and lies in {folder}")
        return None
    return hash((footer.recipe, footer.classes))


def _rows(
    uri: str,
    data: bytes,
    file: pq.ParquetFile,
    footer: Footer,
    findings: Findings,
    statuses: Counter[str],
) -> RowChecks | None:
    """Check all rows and count their statuses; None for a wrong schema."""
    stored = _stored(footer)
    expected = schema(*stored)
    with parsed(uri):
        actual = file.schema_arrow
    if not actual.equals(expected):
        findings.add("schema", _difference(expected, actual))
        return None
    checks = RowChecks(footer.shard.uri, footer.classes, findings, _labels_are_classes(footer))
    for batch in _batches(uri, file):
        checks.check(batch)
        statuses.update(batch["status"].to_pylist())
    rows, counted = len(checks.keys), file.metadata.num_rows
    if rows != counted:
        findings.add("unreadable", f"{rows} rows where the footer counts {counted}")
    elif rows:
        with parsed(uri):
            check_statistics(data, file, findings)
    return checks


def _batches(uri: str, file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    with parsed(uri):
        for batch in file.iter_batches(ROWS_AT_ONCE):
            batch.validate(full=True)
            yield batch


def _stored(footer: Footer) -> tuple[bool, bool]:
    """Whether the recipe keeps maps, and features."""
    try:
        output = json.loads(footer.recipe)["output"]
        return bool(output["store_maps"]), bool(output.get("store_features"))
    except (ValueError, KeyError, TypeError, AttributeError):
        # A recipe of another make; what it is worth is the digest's matter.
        return False, False


def _labels_are_classes(footer: Footer) -> bool:
    """Whether labels count the footer's classes; where nothing is boxed they need not."""
    try:
        return bool(json.loads(footer.recipe)["cam"]["classes"] != "none")
    except (ValueError, KeyError, TypeError):
        return True


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


def _compare_with_input(
    footer: Footer,
    row_keys: Sequence[str],
    storage_options: Mapping[str, Any] | None,
    findings: Findings,
) -> None:
    """Whether the shard is as the footer says, and the rows are its samples, all and in order."""
    shard = footer.shard
    changed = (
        f"{shard.uri} is not what was annotated ({shard.fingerprint}); run cambox annotate again"
    )
    try:
        state = state_of(shard, storage_options)
        if state == "gone":
            remedy = "restore it, or delete this file if it was retired"
            findings.add("input gone", f"{shard.uri} is not there; {remedy}")
            return
        if state == "changed":
            findings.add("input changed", changed)
            # How many bytes it should have now is not known.
            shard = replace(shard, size=0)
        rule = _image_rule(footer)
        keys, content = with_retries(
            shard.uri, lambda: _keys_and_content(shard, storage_options, rule)
        )
    except (ShardError, RequestError, OSError) as error:
        findings.add("input unreadable", str(error))
        return
    # Of the content only reading it tells.
    by_content = shard.fingerprint.startswith("sha256=")
    if by_content and state == "same" and content != shard.fingerprint:
        findings.add("input changed", changed)
    for index, (key, row_key) in enumerate(zip(keys, row_keys, strict=False)):
        if key != row_key:
            text = f"sample {index} of {shard.uri} is {key!r}, the row's key {row_key!r}"
            findings.add("input samples", text)
    if len(keys) != len(row_keys):
        text = f"{shard.uri} has {len(keys)} samples, the file {len(row_keys)} rows"
        findings.add("input samples", text)


def _image_rule(footer: Footer) -> ImageRule:
    try:
        return ImageRule.of_recipe(json.loads(footer.recipe))
    except (ValueError, KeyError, TypeError, AttributeError):
        # As for the maps.
        return ANY_IMAGE


def _keys_and_content(
    shard: Shard, storage_options: Mapping[str, Any] | None, rule: ImageRule
) -> tuple[list[str], str]:
    digest = hashlib.sha256()
    samples = read_samples(shard, storage_options, digest.update, most_in_a_sample(shard), rule)
    return [sample.key for sample in samples], f"sha256={digest.hexdigest()}"
