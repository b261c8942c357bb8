"""Whether the lists of a row (labels, classes, objects, maps) keep the contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import place_in_group
from cambox.output.rows import Entries, as_numpy
from cambox.verify.findings import Check, Findings

Text = Callable[[int], str]


class EntryChecks:
    """The checks of the lists of one batch of rows.

    Args:
        batch: the rows.
        sample: names a row of the batch.
        class_names: of the footer.
        findings: where problems go.
    """

    def __init__(
        self, batch: pa.RecordBatch, sample: Text, class_names: pa.Array, findings: Findings
    ) -> None:
        self.batch = batch
        self.sample = sample
        self.class_names = class_names
        self.findings = findings

    def check(self) -> None:
        """Check all lists."""
        labels, classes, objects = map(self._entries, ("labels", "classes", "objects"))
        self._classes(labels, "item")
        self._classes(classes, "class_id")
        self._within_one(Check.probability, classes, "probability")
        self._within_one(Check.score, objects, "class_score")
        self._within_one(Check.score, objects, "box_score")
        self._boxes(objects, "x_min", "x_max", "width")
        self._boxes(objects, "y_min", "y_max", "height")
        # An entry that a null takes out leaves a hole, and the null is reported already.
        if classes.complete:
            self._order(classes)
        if objects.complete:
            self._components(objects)
        found = [objects]
        if "maps" in self.batch.schema.names:
            found.append(self._entries("maps"))
            self._maps(found[-1])
        for entries in found:
            self._classes(entries, "class_id")
            if labels.complete and classes.complete:
                self._ranks(entries, labels, classes)

    def _entries(self, column: str) -> Entries:
        entries = Entries.of(self.batch[column], column)
        self.findings.add_where(
            Check.null,
            ~entries.whole,
            lambda at: f"{self.sample(entries.all_rows[at])}: a null inside {column}",
        )
        return entries

    def _classes(self, entries: Entries, field: str) -> None:
        ids = entries[field]
        outside = (ids < 0) | (ids >= len(self.class_names))
        self._report(
            Check.class_id,
            entries,
            outside,
            lambda at: f"class {ids[at]} where the footer has {len(self.class_names)} classes",
        )
        if "class_name" in entries.fields:
            names = entries.fields["class_name"]
            expected = self.class_names.take(pa.array(ids, mask=outside))
            self._report(
                Check.class_id,
                entries,
                ~as_numpy(pc.fill_null(pc.equal(names, expected), True)),
                lambda at: f"class {ids[at]} is {names[at]}, in the footer {expected[at]}",
            )

    def _order(self, classes: Entries) -> None:
        rank, probability = classes["rank"], classes["probability"]
        place = place_in_group(classes.row)
        self._report(
            Check.rank,
            classes,
            rank != place + 1,
            lambda at: f"rank {rank[at]} in place {place[at] + 1}",
        )
        rises = np.zeros(len(rank), bool)
        rises[1:] = (place[1:] > 0) & (probability[1:] > probability[:-1])
        self._report(
            Check.probability,
            classes,
            rises,
            lambda at: f"{probability[at]} after {probability[at - 1]}, which is less",
        )

    def _within_one(self, check: Check, entries: Entries, field: str) -> None:
        values = entries[field]
        self._report(
            check,
            entries,
            ~((values >= 0) & (values <= 1)),
            lambda at: f"{field} {values[at]} is not within 0..1",
        )

    def _boxes(self, objects: Entries, low: str, high: str, side: str) -> None:
        limit = as_numpy(pc.cast(self.batch[side], pa.float64()))[objects.row]
        start, end = objects[low], objects[high]
        # No size, no verdict: that is a problem of its own.
        wrong = ~((start >= 0) & (start < end) & (end <= limit)) & (limit >= 1)
        self._report(
            Check.box,
            objects,
            wrong,
            lambda at: f"{low} {start[at]}, {high} {end[at]} in a {side} of {limit[at]:.0f}",
        )

    def _components(self, objects: Entries) -> None:
        ids, rank, component = objects["class_id"], objects["rank"], objects["component"]
        order = np.lexsort((component, rank, ids, objects.row))
        expected = np.empty_like(component)
        expected[order] = place_in_group(objects.row[order], ids[order], rank[order])
        self._report(
            Check.component,
            objects,
            component != expected,
            lambda at: (
                f"class {ids[at]} has the component {component[at]} where {expected[at]} is missing"
            ),
        )

    def _maps(self, maps: Entries) -> None:
        height, width = maps["height"].astype(np.int64), maps["width"].astype(np.int64)
        length = as_numpy(pc.binary_length(maps.fields["values"]))
        self._report(
            Check.map,
            maps,
            (height < 1) | (width < 1) | (length != height * width),
            lambda at: f"{length[at]} bytes for {height[at]} x {width[at]} cells",
        )
        low, high = maps["low"], maps["high"]
        self._report(
            Check.map,
            maps,
            ~(np.isfinite(low) & np.isfinite(high) & (low <= high)),
            lambda at: f"low {low[at]}, high {high[at]}",
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
        at = np.where(inside, at, 0)
        is_predicted = np.zeros(len(ids), bool)
        if len(classes.row):
            is_predicted = (
                inside & (classes.row[at] == entries.row) & (classes["class_id"][at] == ids)
            )
        known = (ids >= 0) & (ids < len(self.class_names))
        self._report(
            Check.rank,
            entries,
            known & ~np.where(rank == 0, is_label, is_predicted),
            lambda at: (
                f"class {ids[at]} with rank {rank[at]}, which "
                f"{'labels' if rank[at] == 0 else 'classes'} do not say"
            ),
        )

    def _report(self, check: Check, entries: Entries, wrong: np.ndarray, text: Text) -> None:
        self.findings.add_where(
            check,
            wrong,
            lambda at: f"{self.sample(entries.row[at])}: {entries.column}: {text(at)}",
        )
