"""Whether rows keep the contract: each condition on a whole batch of rows at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.output.rows import as_numpy
from cambox.sources.decode import SampleStatus
from cambox.verify.findings import Check, Findings
from cambox.verify.lists import EntryChecks

STATUSES = tuple(str(status) for status in SampleStatus)
# Statuses of samples whose image was decoded: they have a size, and the model's classes.
DECODED = (str(SampleStatus.ok), str(SampleStatus.no_label))


class RowChecks:
    """The checks of one file's rows, batch after batch.

    Args:
        shard_uri: of the footer.
        class_names: of the footer.
        findings: where problems go.
    """

    def __init__(self, shard_uri: str, class_names: tuple[str, ...], findings: Findings) -> None:
        self.shard_uri = shard_uri
        self.class_names = pa.array(class_names, pa.string())
        self.findings = findings
        self.keys: list[str] = []
        self._seen: set[str] = set()

    def check(self, batch: pa.RecordBatch) -> None:
        """Check the next rows; the columns are those of ``rows.schema``."""
        first = len(self.keys)
        keys = batch["key"].to_pylist()
        self.keys.extend(keys)

        def sample(row: int) -> str:
            return f"sample {first + row} ({keys[row]!r})"

        self._sample = sample
        self._identity(batch, keys, first)
        self._outcome(batch)
        EntryChecks(batch, sample, self.class_names, self.findings).check()

    def _identity(self, batch: pa.RecordBatch, keys: list[str], first: int) -> None:
        shard = as_numpy(pc.not_equal(batch["shard"], self.shard_uri))
        self.findings.add_where(
            Check.shard,
            shard,
            lambda row: (
                f"{self._sample(row)}: the column says {batch['shard'][row]}, the footer "
                f"{self.shard_uri}"
            ),
        )
        index = as_numpy(batch["sample_index"])
        self.findings.add_where(
            Check.sample_index,
            index != np.arange(first, first + len(keys)),
            lambda row: f"row {first + row} ({keys[row]!r}) has the sample_index {index[row]}",
        )
        for row, key in enumerate(keys):
            if key in self._seen:
                self.findings.add(Check.key, f"{self._sample(row)}: the key is there before")
            self._seen.add(key)

    def _outcome(self, batch: pa.RecordBatch) -> None:
        """Status, error, size, and what an image that was not decoded cannot have."""
        status = batch["status"]
        decoded = as_numpy(pc.is_in(status, pa.array(DECODED)))
        known = as_numpy(pc.is_in(status, pa.array(STATUSES)))
        self.findings.add_where(
            Check.status, ~known, lambda row: f"{self._sample(row)}: {status[row]} is unknown"
        )
        no_error = as_numpy(pc.is_null(batch["error"]))
        self.findings.add_where(
            Check.error,
            known & (no_error != as_numpy(pc.equal(status, str(SampleStatus.ok)))),
            lambda row: f"{self._sample(row)}: {status[row]} with the error {batch['error'][row]}",
        )
        sizes = [as_numpy(pc.fill_null(batch[side], 0)) for side in ("width", "height")]
        is_null = [as_numpy(pc.is_null(batch[side])) for side in ("width", "height")]
        wrong = [
            np.where(decoded, size < 1, ~null) for size, null in zip(sizes, is_null, strict=True)
        ]
        self.findings.add_where(
            Check.size,
            known & (wrong[0] | wrong[1]),
            lambda row: (
                f"{self._sample(row)}: {status[row]} with the size {batch['width'][row]} "
                f"x {batch['height'][row]}"
            ),
        )
        for name in {"classes", "objects", "maps"} & set(batch.schema.names):
            self._nothing_in(name, batch, known & ~decoded)

    def _nothing_in(self, name: str, batch: pa.RecordBatch, rows: np.ndarray) -> None:
        self.findings.add_where(
            Check.status,
            rows & (as_numpy(pc.list_value_length(batch[name])) > 0),
            lambda row: f"{self._sample(row)}: {batch['status'][row]} with {name}",
        )
