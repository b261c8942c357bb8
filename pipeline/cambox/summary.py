"""What a run left behind, for a person and for a program."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cambox.console import counted, say
from cambox.output.footer import Recipe
from cambox.output.ledger import Plan
from cambox.sources.storage import canonical_uri
from cambox.threads import STAGES

if TYPE_CHECKING:
    from cambox.engines.worklist import ShardFailure
    from cambox.shard_report import ShardReport


@dataclass(frozen=True)
class RunSummary:
    """What a run left behind.

    Attributes:
        folder: the URI that readers point at.
        plan: what the run found before it began.
        seconds: of annotating, without start-up and planning.
        manifest: the digest of the one that says what is published now.
    """

    folder: str
    recipe: Recipe
    plan: Plan
    reports: tuple[ShardReport, ...]
    failures: tuple[ShardFailure, ...]
    seconds: float
    manifest: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every shard of the input is published."""
        return not self.failures

    @property
    def done_before(self) -> int:
        """Shards that were published already."""
        return len(self.plan.done)

    @property
    def samples(self) -> int:
        """Rows written in this run."""
        return sum(report.samples for report in self.reports)

    @property
    def boxes(self) -> int:
        """Boxes written in this run."""
        return sum(report.objects for report in self.reports)

    @property
    def statuses(self) -> Counter[str]:
        """Rows by status."""
        return sum((report.statuses for report in self.reports), Counter())

    @property
    def no_box(self) -> Counter[str]:
        """Maps without a box, by reason."""
        return sum((report.no_box for report in self.reports), Counter())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Signs that the rows are not what was meant, each with the remedy."""
        # Late: a plan that finds nothing to do needs no arrays.
        from cambox.signs import Signs

        return sum((report.signs for report in self.reports), Signs()).warnings

    @property
    def retried(self) -> Counter[tuple[str, str]]:
        """Rows that were made again, by their status before and now."""
        return sum((report.retried for report in self.reports), Counter())

    @property
    def several_images(self) -> int:
        """Rows whose sample has images that no row is of."""
        return sum(report.several_images for report in self.reports)

    @property
    def images_per_second(self) -> float:
        """Rows over the time of annotating; 0 where there was nothing to do."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def stage_milliseconds(self) -> dict[str, float]:
        """Per image, by stage; stages overlap, and threads add up."""
        return {
            stage: 1000
            * sum(report.stage_seconds[stage] for report in self.reports)
            / max(self.samples, 1)
            for stage in STAGES
        }

    def to_json(self) -> dict[str, Any]:
        """The same for machines, in plain types."""
        return {
            "output": canonical_uri(self.folder),
            "recipe": self.recipe.digest,
            "manifest": self.manifest,
            "complete": self.complete,
            "shards": {
                "new": len(self.plan.new),
                "changed": len(self.plan.changed),
                "outdated": len(self.plan.outdated),
                "done": len(self.plan.done),
                "orphaned": list(self.plan.orphaned),
                "published": len(self.reports),
                "given_up": [
                    {"shard": one.shard.uri, "reason": one.reason, "attempts": one.attempts}
                    for one in self.failures
                ],
            },
            "rows": self.samples,
            "rows_by_status": dict(self.statuses),
            "boxes": self.boxes,
            "maps_without_box": dict(self.no_box),
            "warnings": list(self.warnings),
            "rows_with_several_images": self.several_images,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "stage_milliseconds_per_image": self.stage_milliseconds,
            "mixed_versions": list(self.plan.mixed_versions),
        }


def print_summary(summary: RunSummary, console: Console) -> None:
    """Say where the output is and what to do next."""
    lines = [
        f"{counted(len(summary.reports), 'shard')} published, "
        f"{summary.done_before} were done before, {len(summary.failures)} given up",
    ]
    if summary.reports:
        lines.append(
            f"{counted(summary.samples, 'row')} ({_listed(summary.statuses)}), "
            f"{counted(summary.boxes, 'box')}, "
            f"{summary.images_per_second:.1f} images/s"
        )
        stages = ", ".join(f"{name} {ms:.2f}" for name, ms in summary.stage_milliseconds.items())
        lines.append(f"milliseconds per image, stages overlap: {stages}")
    if summary.no_box:
        lines.append(f"maps without a box: {_listed(summary.no_box)}")
    lines += summary.warnings
    if summary.several_images:
        first = next(report for report in summary.reports if report.several_images)
        lines.append(
            f"warning: {summary.several_images} rows are of samples with several images, of which "
            f"only one is annotated: in {first.shard.uri} {first.example}"
        )
    lines += [f"given up: {failure.shard.uri}: {failure.reason}" for failure in summary.failures]
    folder = canonical_uri(summary.folder)
    lines.append(f"output: {folder}")
    if summary.complete:
        lines.append(f"read it: pyarrow.dataset.dataset({folder!r}).to_table()")
    else:
        lines.append("mend or remove the shards above and run the same command again")
    say(console, *lines)


def print_retry(summary: RunSummary, console: Console) -> None:
    """Say what became of the rows that were made again."""
    before, now = _before_and_now(summary)
    unfinished = len(summary.plan.new) + len(summary.plan.changed)
    lines = [
        f"{counted(before.total(), 'row')} read again in {counted(len(summary.reports), 'shard')}"
        + (f" ({_listed(before)}); now: {_listed(now)}" if before else ""),
        f"{counted(_rewritten(summary), 'file')} written anew, {len(summary.failures)} given up",
    ]
    if unfinished:
        lines.append(
            f"{counted(unfinished, 'shard')} new or changed: cambox annotate does these, whole"
        )
    lines += [f"given up: {failure.shard.uri}: {failure.reason}" for failure in summary.failures]
    lines.append(f"output: {canonical_uri(summary.folder)}")
    say(console, *lines)


def retry_to_json(summary: RunSummary) -> dict[str, Any]:
    """The same for machines, in plain types."""
    before, now = _before_and_now(summary)
    return {
        "output": canonical_uri(summary.folder),
        "recipe": summary.recipe.digest,
        "manifest": summary.manifest,
        "complete": summary.complete,
        "rows": dict(before),
        "rows_now": dict(now),
        "boxes": summary.boxes,
        "files_written": _rewritten(summary),
        "shards_to_annotate": len(summary.plan.new) + len(summary.plan.changed),
        "given_up": [
            {"shard": one.shard.uri, "reason": one.reason, "attempts": one.attempts}
            for one in summary.failures
        ],
        "seconds": summary.seconds,
    }


def _before_and_now(summary: RunSummary) -> tuple[Counter[str], Counter[str]]:
    before, now = Counter[str](), Counter[str]()
    for (old, new), rows in summary.retried.items():
        before[old] += rows
        now[new] += rows
    return before, now


def _rewritten(summary: RunSummary) -> int:
    return sum(any(old != new for old, new in one.retried) for one in summary.reports)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
