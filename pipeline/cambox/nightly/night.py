"""One night, start to end: the day's input, a run, verification, ``latest``, the report."""

from __future__ import annotations

import platform
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version

from rich.console import Console

from cambox.config import Config
from cambox.console import Steps, say
from cambox.errors import RequestError
from cambox.nightly import notes
from cambox.nightly.report import (
    InputNote,
    LatestNote,
    RecipeNote,
    RunReport,
    VerificationNote,
    WorkNote,
    publish_report,
    report_name,
)
from cambox.output.footer import library_versions
from cambox.output.latest import Latest, check_latest, move_latest
from cambox.output.ledger import plan
from cambox.run import annotate_planned, prepare
from cambox.summary import print_summary
from cambox.verify.verify import verify

# Braces with anything else in them ({000..099}, {a,b}) are for the expansion of shard names.
_PLACEHOLDER = re.compile(r"\{date(?::([^{}]*))?\}")


@dataclass
class _Night:
    """What is known of the night so far; a report can be made of it at any time.

    Attributes:
        latest: the recipe that readers are pointed to.
    """

    config: Config
    day: date
    command: Sequence[str]
    started_at: datetime
    latest: str | None = None
    recipe: RecipeNote | None = None
    input: InputNote | None = None
    work: WorkNote | None = None
    verification: VerificationNote | None = None
    moved: bool = False

    @property
    def name(self) -> str:
        return report_name(self.started_at, self.recipe.folder if self.recipe else None)


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
    night = _Night(config, day, command, datetime.now(UTC))
    try:
        before = check_latest(config.output)
        night.latest = before.recipe if before else None
        folder = _work(night, console)
        why_not = _why_not(night)
        if why_not is None:
            _move_latest(night, folder)
        report = _report(night, why_not)
    except BaseException as error:
        _leave_a_report(night, error, console)
        raise
    uri = publish_report(report, config.output)
    _print(report, uri, console)
    return report


def _work(night: _Night, console: Console) -> str:
    """Annotate and verify; gives the URI of the recipe's folder."""
    output = night.config.output
    config = of_the_day(night.config, night.day)
    engine, work = prepare(config, console)
    night.recipe, night.input = notes.recipe_note(engine.recipe), notes.input_note(work)
    summary = annotate_planned(config, engine, work, console)
    night.work = notes.work_note(summary, ())
    print_summary(summary, console)
    shards = work.to_do + work.done
    # The footers again: a worker may have published to a folder that only its own node has.
    unpublished = plan(shards, engine.recipe, output).to_do
    given_up = {failure.shard for failure in summary.failures}
    missing = [shard for shard in unpublished if shard not in given_up]
    night.work = notes.work_note(summary, missing)
    if len(unpublished) < len(shards):
        with Steps(console) as steps:
            found = verify(
                summary.folder, output.storage_options, on_file=steps.step("files verified")
            )
        night.verification = notes.verification_note(found)
    return summary.folder


def _why_not(night: _Night) -> str | None:
    """Why readers cannot be pointed to this night's recipe; None where they can."""
    assert night.work is not None
    found = night.verification
    reasons = []
    if night.work.given_up:
        reasons.append(f"{len(night.work.given_up)} shards were given up")
    if night.work.missing:
        reasons.append(f"{len(night.work.missing)} shards are not in the output")
    if found is not None and not found.ok:
        reasons.append(f"verification found {len(found.problems)} problems")
    return ", ".join(reasons) or None


def _move_latest(night: _Night, folder: str) -> None:
    recipe, found = night.recipe, night.verification
    assert recipe is not None
    assert found is not None
    latest = Latest(
        recipe=recipe.folder,
        uri=folder,
        run=night.name,
        shards=found.files,
        rows=found.rows,
        moved_at=datetime.now(UTC),
    )
    move_latest(night.config.output, latest)
    night.latest, night.moved = recipe.folder, True


def _report(night: _Night, why_not: str | None, error: BaseException | None = None) -> RunReport:
    if error is None:
        exit_code = 1 if why_not else 0
    else:
        exit_code = 2 if isinstance(error, RequestError) else 1
    # A wrong request says all in its one line.
    unexpected = error if exit_code == 1 else None
    return RunReport(
        name=night.name,
        outcome="failed" if error else "unfinished" if why_not else "complete",
        exit_code=exit_code,
        started_at=night.started_at,
        ended_at=datetime.now(UTC),
        day=night.day,
        command=notes.without_secrets(night.command),
        config=notes.config_without_secrets(night.config),
        output=night.config.output.uri,
        recipe=night.recipe,
        input=night.input,
        work=night.work,
        verification=night.verification,
        latest=LatestNote(moved=night.moved, why_not=why_not, recipe=night.latest),
        error=notes.error_line(error) if error else None,
        traceback="".join(traceback.format_exception(unexpected)) if unexpected else None,
        versions={
            **library_versions(),
            "ray": version("ray"),
            "python": platform.python_version(),
        },
    )


def _leave_a_report(night: _Night, error: BaseException, console: Console) -> None:
    """The report of a night that failed; the error itself stays the caller's to raise."""
    why_not = None if night.moved else "the night failed before its end"
    try:
        uri = publish_report(_report(night, why_not, error), night.config.output)
    except Exception as second:  # noqa: BLE001  the first error matters more, and is raised
        say(console, f"the report could not be written: {notes.error_line(second)}")
    else:
        say(console, f"report: {uri}")


def _print(report: RunReport, uri: str, console: Console) -> None:
    found = report.verification
    if found is not None:
        state = "passed" if found.ok else f"failed with {len(found.problems)} problems"
        say(console, f"verification of {found.files} files, {found.rows} rows: {state}")
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
    shards = [_PLACEHOLDER.sub(lambda match: _text(match, day), uri) for uri in config.input.shards]
    return config.model_copy(update={"input": config.input.model_copy(update={"shards": shards})})


def _text(match: re.Match[str], day: date) -> str:
    form = "%Y-%m-%d" if match[1] is None else match[1]
    text = day.strftime(form)
    # A code that strftime does not know stays as it is, and text without one names no day.
    if "%" in text or text == form:
        raise RequestError(
            f"input.shards: {match[0]} is not a date; write {{date}} or {{date:%Y/%m/%d}}"
        )
    return text
