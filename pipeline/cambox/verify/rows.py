"""Whether rows keep the contract: each condition on a whole batch of rows at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import place_in_group
from cambox.output.rows import Entries, as_numpy
from cambox.sources.decode import SampleStatus
from cambox.sources.samples import SEVERAL_IMAGES
from cambox.verify.findings import Check, Findings

STATUSES = tuple(str(status) for status in SampleStatus)
# Statuses of samples whose image was decoded: they have a size, and the model's classes.
DECODED = (str(SampleStatus.ok), str(SampleStatus.no_label))
Text = Callable[[int], str]


class RowChecks:
    """The checks of one file's rows, batch after batch.

    Attributes:
        keys: of all rows so far.
        several_images: rows so far whose sample has images that no row is of.

    Args:
        shard_uri, class_names: of the footer.
        findings: where problems go.
        labels_are_classes: whether labels count the classes of ``class_names``.
    """

    def __init__(
        self,
        shard_uri: str,
        class_names: tuple[str, ...],
        findings: Findings,
        labels_are_classes: bool = True,
    ) -> None:
        self.labels_are_classes = labels_are_classes
        self.shard_uri = shard_uri
        self.class_names = pa.array(class_names, pa.string())
        self.findings = findings
        self.keys: list[str] = []
        self.several_images = 0
        self._seen: set[str] = set()

    def check(self, batch: pa.RecordBatch) -> None:
        """Check the next rows; the columns are those of ``rows.schema``."""
        self.batch, self.first = batch, len(self.keys)
        self.keys += batch["key"].to_pylist()
        self._identity()
        self._outcome()
        self._lists()

    def _sample(self, row: int) -> str:
        return f"sample {self.first + row} ({self.keys[self.first + row]!r})"

    def _report_rows(self, check: Check, wrong: np.ndarray, text: Text) -> None:
        self.findings.add_where(check, wrong, lambda row: f"{self._sample(row)}: {text(row)}")

    def _report_entries(
        self, check: Check, entries: Entries, wrong: np.ndarray, text: Text
    ) -> None:
        self.findings.add_where(
            check,
            wrong,
            lambda at: f"{self._sample(entries.row[at])}: {entries.column}: {text(at)}",
        )

    def _identity(self) -> None:
        shard, index = self.batch["shard"], as_numpy(self.batch["sample_index"])
        keys = self.keys[self.first :]
        self._report_rows(
            "shard",
            as_numpy(pc.not_equal(shard, self.shard_uri)),
            lambda row: f"the column says {shard[row]}, the footer {self.shard_uri}",
        )
        self.findings.add_where(
            "sample_index",
            index != np.arange(self.first, len(self.keys)),
            lambda row: f"row {self.first + row} ({keys[row]!r}) has the sample_index {index[row]}",
        )
        for row, key in enumerate(keys):
            if key in self._seen:
                self.findings.add("key", f"{self._sample(row)}: the key is there before")
            self._seen.add(key)

    def _outcome(self) -> None:
        """Status, error, size, and what an image that was not decoded cannot have."""
        status, error = self.batch["status"], self.batch["error"]
        width, height = self.batch["width"], self.batch["height"]
        decoded = as_numpy(pc.is_in(status, pa.array(DECODED)))
        known = as_numpy(pc.is_in(status, pa.array(STATUSES)))
        self._report_rows("status", ~known, lambda row: f"{status[row]} is unknown")
        is_ok = as_numpy(pc.equal(status, str(SampleStatus.ok)))
        several = as_numpy(pc.fill_null(pc.match_substring(error, SEVERAL_IMAGES), False))
        self.several_images += int(several.sum())
        self._report_rows(
            "error",
            known & (as_numpy(error.is_null()) != is_ok) & ~(is_ok & several),
            lambda row: f"{status[row]} with the error {error[row]}",
        )
        smallest = pc.min_element_wise(pc.fill_null(width, 0), pc.fill_null(height, 0))
        has_some = pc.or_(width.is_valid(), height.is_valid())
        self._report_rows(
            "size",
            known & np.where(decoded, as_numpy(smallest) < 1, as_numpy(has_some)),
            lambda row: f"{status[row]} with the size {width[row]} x {height[row]}",
        )
        for name in ("classes", "objects", "maps", "features", "border_features"):
            if name in self.batch.schema.names:
                self._require_none(name, known & ~decoded)

    def _require_none(self, column: str, rows: np.ndarray) -> None:
        self._report_rows(
            "status",
            rows & (as_numpy(pc.list_value_length(self.batch[column])) > 0),
            lambda row: f"{self.batch['status'][row]} with {column}",
        )

    def _lists(self) -> None:
        labels, classes, objects = map(self._taken_apart, ("labels", "classes", "objects"))
        if self.labels_are_classes:
            self._classes(labels, "item")
        self._classes(classes, "class_id")
        self._within_one("probability", classes, "probability")
        self._within_one("score", objects, "class_score")
        self._within_one("score", objects, "box_score")
        self._boxes(objects, "x_min", "x_max", "width")
        self._boxes(objects, "y_min", "y_max", "height")
        # An entry that a null takes out leaves a hole, and the null is reported already.
        if classes.complete:
            self._order(classes)
        if objects.complete:
            self._components(objects)
        for name in ("features", "border_features"):
            if name in self.batch.schema.names:
                self._features(self._taken_apart(name))
        found = [objects]
        if "maps" in self.batch.schema.names:
            found.append(self._taken_apart("maps"))
            self._maps(found[-1])
        for entries in found:
            self._classes(entries, "class_id")
            if labels.complete and classes.complete:
                self._ranks(entries, labels, classes)

    def _taken_apart(self, column: str) -> Entries:
        entries = Entries.of(self.batch[column], column)
        self.findings.add_where(
            "null",
            ~entries.whole,
            lambda at: f"{self._sample(entries.all_rows[at])}: a null inside {column}",
        )
        return entries

    def _classes(self, entries: Entries, field: str) -> None:
        ids = entries[field]
        outside = (ids < 0) | (ids >= len(self.class_names))
        self._report_entries(
            "class",
            entries,
            outside,
            lambda at: f"class {ids[at]} where the footer has {len(self.class_names)} classes",
        )
        if "class_name" in entries.fields:
            names = entries.fields["class_name"]
            expected = self.class_names.take(pa.array(ids, mask=outside))
            self._report_entries(
                "class",
                entries,
                ~as_numpy(pc.fill_null(pc.equal(names, expected), True)),
                lambda at: f"class {ids[at]} is {names[at]}, in the footer {expected[at]}",
            )

    def _order(self, classes: Entries) -> None:
        rank, probability = classes["rank"], classes["probability"]
        place = place_in_group(classes.row)
        self._report_entries(
            "rank",
            classes,
            rank != place + 1,
            lambda at: f"rank {rank[at]} in place {place[at] + 1}",
        )
        before = np.roll(probability, 1)
        self._report_entries(
            "probability",
            classes,
            (place > 0) & (probability > before),
            lambda at: f"{probability[at]} after {before[at]}, which is less",
        )

    def _within_one(self, check: Check, entries: Entries, field: str) -> None:
        values = entries[field]
        self._report_entries(
            check,
            entries,
            ~((values >= 0) & (values <= 1)),
            lambda at: f"{field} {values[at]} is not within 0..1",
        )

    def _boxes(self, objects: Entries, low: str, high: str, side: str) -> None:
        limit = as_numpy(pc.cast(self.batch[side], pa.float64()))[objects.row]
        start, end = objects[low], objects[high]
        self._report_entries(
            "box",
            objects,
            # No size, no verdict: that is a problem of its own.
            ~((start >= 0) & (start < end) & (end <= limit)) & (limit >= 1),
            lambda at: f"{low} {start[at]}, {high} {end[at]} in a {side} of {limit[at]:.0f}",
        )

    def _components(self, objects: Entries) -> None:
        ids, rank, component = objects["class_id"], objects["rank"], objects["component"]
        order = np.lexsort((component, rank, ids, objects.row))
        expected = np.empty_like(component)
        expected[order] = place_in_group(objects.row[order], ids[order], rank[order])
        self._report_entries(
            "component",
            objects,
            component != expected,
            lambda at: (
                f"class {ids[at]} has the component {component[at]} where {expected[at]} is missing"
            ),
        )

    def _maps(self, maps: Entries) -> None:
        height, width = maps["height"].astype(np.int64), maps["width"].astype(np.int64)
        length = as_numpy(pc.binary_length(maps.fields["values"]))
        self._report_entries(
            "map",
            maps,
            (height < 1) | (width < 1) | (length != height * width),
            lambda at: f"{length[at]} bytes for {height[at]} x {width[at]} cells",
        )
        low, high = maps["low"], maps["high"]
        self._report_entries(
            "map",
            maps,
            ~(np.isfinite(low) & np.isfinite(high) & (low <= high)),
            lambda at: f"low {low[at]}, high {high[at]}",
        )

    def _features(self, features: Entries) -> None:
        self._report_entries(
            "features",
            features,
            ~np.isfinite(features["item"]),
            lambda at: f"one of {features.column} is {features['item'][at]}",
        )

    def _ranks(self, entries: Entries, labels: Entries, classes: Entries) -> None:
        """Rank 0 is one of the labels, any other rank that of the class among ``classes``."""
        ids, rank = entries["class_id"].astype(np.int64), entries["rank"].astype(np.int64)
        is_label = np.isin(
            (entries.row.astype(np.int64) << 32) + ids,
            (labels.row.astype(np.int64) << 32) + labels["item"],
        )
        at = np.searchsorted(classes.row, entries.row) + rank - 1
        inside = (rank >= 1) & (at < len(classes.row))
        is_predicted = np.zeros(len(ids), bool)
        is_predicted[inside] = (classes.row[at[inside]] == entries.row[inside]) & (
            classes["class_id"][at[inside]] == ids[inside]
        )
        known = (ids >= 0) & (ids < len(self.class_names))
        self._report_entries(
            "rank",
            entries,
            known & ~np.where(rank == 0, is_label, is_predicted),
            lambda at: (
                f"class {ids[at]} with rank {rank[at]}, which "
                f"{'labels' if rank[at] == 0 else 'classes'} do not say"
            ),
        )
