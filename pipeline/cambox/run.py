"""A whole run: find the shards, plan, annotate what is missing, sum up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from packaging.version import Version
from rich.console import Console
from rich.markup import escape

from cambox.annotate import ShardReport
from cambox.config import Config
from cambox.engines.display import RunDisplay
from cambox.engines.local import LocalEngine
from cambox.engines.outcome import Engine, ShardFailure
from cambox.errors import RequestError
from cambox.output.ledger import Plan, plan
from cambox.output.leftovers import remove_leftovers
from cambox.output.publish import recipe_uri
from cambox.output.recipe import Recipe
from cambox.sources.content import with_content_fingerprints
from cambox.sources.shards import Shard, find_shards
from cambox.sources.storage import canonical_uri, locate
from cambox.stopwatch import STAGES

ORPHANS_NAMED = 10


@dataclass(frozen=True)
class RunSummary:
    """What a run left behind.

    Attributes:
        folder: the URI that readers point at.
        plan: what the run found before it began.
        seconds: of annotating, without start-up and planning.
    """

    folder: str
    recipe: Recipe
    plan: Plan
    reports: tuple[ShardReport, ...]
    failures: tuple[ShardFailure, ...]
    seconds: float

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
            "complete": self.complete,
            "shards": {
                "new": len(self.plan.new),
                "changed": len(self.plan.changed),
                "outdated": len(self.plan.outdated),
                "done": len(self.plan.done),
                "orphaned": list(self.plan.orphaned),
                "published": len(self.reports),
                "given_up": [
                    {
                        "shard": failure.shard.uri,
                        "reason": failure.reason,
                        "attempts": failure.attempts,
                    }
                    for failure in self.failures
                ],
            },
            "rows": self.samples,
            "rows_by_status": dict(self.statuses),
            "boxes": self.boxes,
            "maps_without_box": dict(self.no_box),
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "stage_milliseconds_per_image": self.stage_milliseconds,
            "mixed_versions": list(self.plan.mixed_versions),
        }


def run(config: Config, console: Console, redo_older_than: Version | None = None) -> RunSummary:
    """Annotate every shard of the input that is not published under the same recipe yet.

    Args:
        redo_older_than: also those that an older version of cambox made.

    Raises:
        RequestError: the request cannot be carried out as it stands.
    """
    engine, work = prepare(config, console, redo_older_than)
    return annotate_planned(config, engine, work, console)


def annotate_planned(config: Config, engine: Engine, work: Plan, console: Console) -> RunSummary:
    """Do what was found to do, with the engine that ``prepare`` gave."""
    if removed := remove_leftovers(config.output, engine.recipe):
        console.print(f"removed {removed} temporary files of runs that died", highlight=False)
    to_do = work.to_do
    with RunDisplay(console, len(to_do), sum(shard.size for shard in to_do)) as display:
        outcomes = engine.annotate(to_do, display) if to_do else []
        seconds = display.seconds
    return RunSummary(
        folder=recipe_uri(config.output, engine.recipe),
        recipe=engine.recipe,
        plan=work,
        reports=tuple(outcome for outcome in outcomes if isinstance(outcome, ShardReport)),
        failures=tuple(outcome for outcome in outcomes if isinstance(outcome, ShardFailure)),
        seconds=seconds,
    )


def prepare(
    config: Config, console: Console, redo_older_than: Version | None = None
) -> tuple[Engine, Plan]:
    """Load the model, find the shards and say what there is to do.

    Raises:
        RequestError: the request cannot be carried out as it stands.
    """
    shards = _input_shards(config)
    locate(config.output.uri, config.output.storage_options)
    engine = make_engine(config)
    if not config.model.has_weights:
        console.print(
            "warning: model.checkpoint is null and model.pretrained is false, so the weights are "
            "random and the boxes mean nothing",
            soft_wrap=True,
        )
    try:
        work = plan(shards, engine.recipe, config.output, redo_older_than)
    except OSError as error:
        raise RequestError(f"output.uri: {config.output.uri} cannot be listed: {error}") from error
    lines = [f"{work}; recipe {engine.recipe.folder}"]
    lines += [f"orphaned, no longer in the input: {uri}" for uri in work.orphaned[:ORPHANS_NAMED]]
    if len(work.orphaned) > ORPHANS_NAMED:
        lines.append(f"and {len(work.orphaned) - ORPHANS_NAMED} more orphaned")
    if work.mixed_versions:
        lines.append(f"published with several versions: {', '.join(work.mixed_versions)}")
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
    return engine, work


def print_summary(summary: RunSummary, console: Console) -> None:
    """Say where the output is and what to do next."""
    lines = [
        f"{len(summary.reports)} shards published, {summary.done_before} were done before, "
        f"{len(summary.failures)} given up",
    ]
    if summary.reports:
        lines.append(
            f"{summary.samples} rows ({_listed(summary.statuses)}), {summary.boxes} boxes, "
            f"{summary.images_per_second:.1f} images/s"
        )
        stages = ", ".join(f"{name} {ms:.2f}" for name, ms in summary.stage_milliseconds.items())
        lines.append(f"milliseconds per image, stages overlap: {stages}")
    if summary.no_box:
        lines.append(f"maps without a box: {_listed(summary.no_box)}")
    lines += [f"given up: {failure.shard.uri}: {failure.reason}" for failure in summary.failures]
    folder = canonical_uri(summary.folder)
    lines.append(f"output: {folder}")
    if summary.complete:
        lines.append(f"read it: pyarrow.dataset.dataset({folder!r}).to_table()")
    else:
        lines.append("mend or remove the shards above and run the same command again")
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _input_shards(config: Config) -> list[Shard]:
    options = config.input.storage_options
    try:
        shards = find_shards(config.input.shards, options)
        if config.input.fingerprint == "content":
            shards = with_content_fingerprints(shards, options)
    except OSError as error:
        raise RequestError(f"input.shards: the input cannot be read: {error}") from error
    return shards


def make_engine(config: Config) -> Engine:
    """The configured engine, its model loaded and its recipe resolved."""
    if config.engine.name == "local":
        return LocalEngine(config)
    # Ray takes seconds to import and a laptop does not need it.
    from cambox.engines.cluster import RayEngine

    return RayEngine(config)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
