"""One night, start to end: the day's input, a run, verification, ``latest``, the report."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Sequence
from datetime import UTC, date, datetime

from rich.console import Console

from cambox.config import Config, OutputSettings
from cambox.console import Steps, counted, one_line, say
from cambox.errors import RequestError, Terminated
from cambox.nightly.report import (
    InputNote,
    LatestNote,
    RecipeNote,
    RunReport,
    VerificationNote,
    WorkNote,
    begun_report,
    publish_report,
    report_name,
)
from cambox.output.latest import Latest, check_latest, move_latest
from cambox.output.ledger import plan
from cambox.planned import annotate_planned
from cambox.run import prepare
from cambox.summary import RunSummary, print_summary
from cambox.verify.verify import verify

# Braces with anything else in them ({000..099}, {a,b}) are for the expansion of shard names.
_PLACEHOLDER = re.compile(r"\{date(?::([^{}]*))?\}")


def run_night(config: Config, day: date, command: Sequence[str], console: Console) -> RunReport:
    """Annotate what is new, verify all that is published, and say whether it can be trusted.

    ``latest`` moves only when every shard of the input is published and verified. The report is
    published however the night ends.

    Args:
        day: fills the placeholders of ``input.shards``.
        command: the command line, for the report.

    Raises:
        RequestError: the request cannot be carried out as it stands.
        OSError: the storage failed for more than single shards.
    """
    report = begun_report(config, day, command)
    try:
        before = check_latest(config.output)
        if before is not None:
            report.latest = LatestNote(recipe=before.recipe)
        summary = _work(report, config, console)
        why_not = _why_not(report)
        if why_not is None:
            _move_latest(report, config.output, summary)
            report.outcome, report.exit_code = "complete", 0
        else:
            report.latest = LatestNote(why_not=why_not, recipe=report.latest.recipe)
            report.outcome = "unfinished"
        report.ended_at = datetime.now(UTC)
    except BaseException as error:
        _leave_a_report(report, config.output, error, console)
        raise
    uri = publish_report(report, config.output)
    _print(report, uri, console)
    return report


def _work(report: RunReport, config: Config, console: Console) -> RunSummary:
    """Annotate and verify."""
    config = of_the_day(config, report.day)
    engine, work = prepare(config, console)
    recipe = engine.recipe
    shards = work.shards
    report.name = report_name(report.started_at, recipe.folder)
    report.recipe = RecipeNote(
        folder=recipe.folder, digest=recipe.digest, settings=json.loads(recipe.settings)
    )
    states = ("new", "changed", "done", "orphaned")
    counts = {state: len(getattr(work, state)) for state in states}
    report.input = InputNote(shards=len(shards), **counts)
    summary = annotate_planned(config, engine, work, console)
    report.manifest = summary.manifest
    report.work = WorkNote(
        published=len(summary.reports),
        given_up=summary.to_json()["shards"]["given_up"],
        missing=(),
        rows=summary.statuses,
        boxes=summary.boxes,
        maps_without_a_box=summary.no_box,
        seconds=summary.seconds,
        images_per_second=summary.images_per_second,
    )
    print_summary(summary, console)
    # The footers again: a worker may have published to a folder that only its own node has.
    # A shard that was rewritten during the run is published as it was then.
    read = {one.shard.uri: one.shard for one in summary.reports}
    shards = tuple(read.get(shard.uri, shard) for shard in shards)
    unpublished = plan(shards, recipe, config.output).to_do
    given_up = {failure.shard for failure in summary.failures}
    missing = tuple(shard.uri for shard in unpublished if shard not in given_up)
    report.work = report.work.model_copy(update={"missing": missing})
    if len(unpublished) < len(shards):
        with Steps(console) as steps:
            advance = steps.step("files verified")
            found = verify(summary.folder, config.output.storage_options, on_file=advance)
        report.verification = VerificationNote(ok=found.ok, **vars(found))
    return summary


def _why_not(report: RunReport) -> str | None:
    """Why readers cannot be pointed to this night's recipe; None where they can."""
    assert report.work is not None
    found = report.verification
    reasons = []
    if report.work.given_up:
        reasons.append(f"given up: {counted(len(report.work.given_up), 'shard')}")
    if report.work.missing:
        reasons.append(f"not in the output: {counted(len(report.work.missing), 'shard')}")
    if found is not None and not found.ok:
        reasons.append(f"verification found {counted(len(found.problems), 'problem')}")
    return ", ".join(reasons) or None


def _move_latest(report: RunReport, output: OutputSettings, summary: RunSummary) -> None:
    found = report.verification
    assert found is not None
    latest = Latest(
        recipe=summary.recipe.folder,
        uri=summary.folder,
        run=report.name,
        shards=found.files,
        rows=found.rows,
        moved_at=datetime.now(UTC),
        manifest=summary.manifest,
    )
    there = move_latest(output, latest)
    moved = there == latest
    why_not = None if moved else f"a later night has moved it already, {there.run}"
    report.latest = LatestNote(moved=moved, why_not=why_not, recipe=there.recipe)


def _leave_a_report(
    report: RunReport, output: OutputSettings, error: BaseException, console: Console
) -> None:
    """The report of a night that failed; the error itself stays the caller's to raise."""
    report.ended_at = datetime.now(UTC)
    report.outcome, report.error = "failed", _error_line(error)
    report.exit_code = error.exit_code if isinstance(error, RequestError) else 1
    if isinstance(error, Terminated):
        report.exit_code = 143
    # A request's error says all in its one line.
    if not isinstance(error, RequestError | Terminated):
        report.traceback = "".join(traceback.format_exception(error))
    try:
        uri = publish_report(report, output)
    except Exception as second:  # noqa: BLE001  the first error matters more, and is raised
        say(console, f"the report could not be written: {_error_line(second)}")
    else:
        say(console, f"report: {uri}")


def _error_line(error: BaseException) -> str:
    """An error in one line, with its kind unless it is a request's, which says all itself."""
    text = one_line(error)
    return text if isinstance(error, RequestError) else f"{type(error).__name__}: {text}"


def _print(report: RunReport, uri: str, console: Console) -> None:
    found = report.verification
    if found is not None:
        state = "passed" if found.ok else f"failed with {counted(len(found.problems), 'problem')}"
        of_what = f"{counted(found.files, 'file')}, {counted(found.rows, 'row')}"
        say(console, f"verification of {of_what}: {state}")
        for problem in found.problems:
            say(console, f"wrong: {problem.file}: {problem.what}")
    for shard in report.work.missing if report.work else ():
        say(console, f"not in the output: {shard}; do all nodes share {report.output}?")
    if report.latest.moved:
        say(console, f"latest: moved to {report.latest.recipe}")
    else:
        stays = report.latest.recipe or "nothing yet"
        say(console, f"latest: not moved ({report.latest.why_not}); it is at {stays}")
    say(console, f"report: {uri}")


def parse_day(text: str) -> date:
    """The day of ``--date``.

    Raises:
        RequestError: it is not a date.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise RequestError(f"--date: {text!r} is not a date; write it as 2026-01-31") from error


def of_the_day(config: Config, day: date) -> Config:
    """The configuration with the placeholders of ``input.shards`` filled in.

    ``{date}`` is YYYY-MM-DD and ``{date:%Y/%m/%d}`` any form of ``strftime``. Without a
    placeholder nothing changes: the input is a folder that grows.

    Raises:
        RequestError: a placeholder's form is not one of ``strftime``.
    """

    def filled_in(match: re.Match[str]) -> str:
        form = match[1] if match[1] is not None else "%Y-%m-%d"
        text = day.strftime(form)
        # A code that strftime does not know stays as it is, and text without one names no day.
        if "%" in text or text == form:
            raise RequestError(
                f"input.shards: {match[0]} is not a date; write {{date}} or {{date:%Y/%m/%d}}"
            )
        return text

    given = config.input
    filled = {
        name: [_PLACEHOLDER.sub(filled_in, uri) for uri in getattr(given, name)]
        for name in ("shards", "images")
    }
    return config.model_copy(update={"input": given.model_copy(update=filled)})
