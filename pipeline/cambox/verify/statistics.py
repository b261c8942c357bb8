"""Whether a footer's statistics are true of its rows: readers leave out row groups by them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cambox.verify.findings import Findings


def check_statistics(data: bytes, file: pq.ParquetFile, findings: Findings) -> None:
    """See that no row group is left out by a filter that some of its rows pass.

    Not by the statistics themselves: of a damaged footer pyarrow ends the process where it gives
    them.

    Args:
        data: the whole file.
        file: the same, whose rows could be read.

    Raises:
        pa.ArrowException: the footer is damaged.
    """
    schema = file.schema_arrow
    names = [field.name for field in schema if not pa.types.is_nested(field.type)]
    format_ = ds.ParquetFileFormat()
    fragment = format_.make_fragment(pa.BufferReader(data))
    for number in range(file.metadata.num_row_groups):
        rows = file.read_row_group(number, names)
        for name in names:
            for condition in _passed(name, rows[name]):
                kept = fragment.subset(condition, schema=schema).row_groups
                if number not in [group.id for group in kept]:
                    text = f"{name} of row group {number} is not as the footer says"
                    findings.add("statistics", f"{text}; do the shard again")


def _passed(name: str, values: pa.ChunkedArray) -> Iterator[pc.Expression]:
    """Conditions that one of the values passes at least."""
    field = pc.field(name)
    if values.null_count:
        yield field.is_null()
    if values.null_count < len(values):
        bounds = pc.min_max(values)
        yield field.is_valid()
        yield field <= bounds["min"]
        yield field >= bounds["max"]
