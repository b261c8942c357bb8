"""What a night leaves behind for people and for programs: one JSON file and one page.

The page needs nothing else: no script, no font, no picture. Storage options may hold keys, and a
report is read by more people than may know them, so it has their names alone.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cambox.config import Config, OutputSettings
from cambox.console import page_template
from cambox.output.footer import library_versions
from cambox.output.publish import RUNS
from cambox.output.whole import publish_bytes
from cambox.sources.signed import unsigned
from cambox.verify.findings import Problem

SCHEMA_VERSION = 1
# Parquet readers skip names that start with an underscore.
FOLDER = RUNS
# A page with a line for each of a million shards opens in no browser; the JSON file has them all.
MOST_LINES = 200
_HIDDEN = "***"
_OPTIONS = "storage_options"


class Part(BaseModel):
    """A part of the report: immutable, with no room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecipeNote(Part):
    """The recipe of the night; ``settings`` are the resolved ones, as in every footer."""

    folder: str
    digest: str
    settings: dict[str, Any]


class InputNote(Part):
    """Shards of the input, as the plan found them; ``orphaned`` are published and not in it."""

    shards: int
    new: int
    changed: int
    done: int
    orphaned: int


class GivenUp(Part):
    """A shard that nothing was published for, why, and after how many attempts."""

    shard: str
    reason: str
    attempts: int


class WorkNote(Part):
    """What this night added; ``seconds`` are of annotating, without start-up and planning.

    Attributes:
        published, given_up, missing: shards; missing ones were reported as published and are not
            in the output.
        rows, maps_without_a_box: by status, and by reason.
    """

    published: int
    given_up: tuple[GivenUp, ...]
    missing: tuple[str, ...]
    rows: dict[str, int]
    boxes: int
    maps_without_a_box: dict[str, int]
    seconds: float
    images_per_second: float


class VerificationNote(Part):
    """What ``verify`` found in the recipe's whole folder, of this night and of those before."""

    ok: bool
    files: int
    rows: int
    statuses: dict[str, int]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]


class LatestNote(Part):
    """Whether readers were pointed to this night's recipe, why not, and where they are now."""

    moved: bool = False
    why_not: str | None = "the night failed before its end"
    recipe: str | None = None


class RunReport(Part, frozen=False):
    """One night; until its end, what is known of it so far.

    Attributes:
        outcome: complete (exit code 0), unfinished (it ran, and something is missing or wrong),
            or failed (it ended before its end; ``error`` says why).
        day: what ``{date}`` in ``input.shards`` became.
        command, config: without the values of ``storage_options``, which may be secret.
        recipe, input: null where the night failed before they were known.
        work: null where it failed before the last shard's outcome.
        manifest: the digest of the one that names what is published, to the byte.
        verification: null where it did not come to it, or nothing is published.
        error, traceback: of a night that failed.
    """

    schema_version: Literal[1] = 1
    name: str
    outcome: Literal["complete", "unfinished", "failed"] = "failed"
    exit_code: int = 1
    started_at: datetime
    ended_at: datetime
    day: date
    command: tuple[str, ...]
    config: dict[str, Any]
    output: str
    recipe: RecipeNote | None = None
    input: InputNote | None = None
    work: WorkNote | None = None
    manifest: str | None = None
    verification: VerificationNote | None = None
    latest: LatestNote = LatestNote()
    error: str | None = None
    traceback: str | None = None
    versions: dict[str, str]


def begun_report(config: Config, day: date, command: Sequence[str]) -> RunReport:
    """The report of a night that begins: that it failed, until there is more to say."""
    now = datetime.now(UTC)
    settings = config.model_dump(mode="json")
    for section in ("input", "output"):
        settings[section][_OPTIONS] = dict.fromkeys(settings[section][_OPTIONS], _HIDDEN)
    return RunReport(
        name=report_name(now, None),
        started_at=now,
        ended_at=now,
        day=day,
        command=without_secrets(command),
        config=settings,
        output=config.output.uri,
        versions={
            **library_versions(),
            "ray": version("ray"),
            "python": platform.python_version(),
        },
    )


def without_secrets(command: Sequence[str]) -> tuple[str, ...]:
    """A command line without the values of overrides that set storage options."""
    return tuple(
        f"{argument.partition('=')[0]}={_HIDDEN}" if _OPTIONS in argument else argument
        for argument in command
    )


def report_name(started_at: datetime, recipe_folder: str | None) -> str:
    """The report's file name without its ending; sorts by time.

    Args:
        started_at: in UTC; milliseconds keep a run apart from its repetition.
        recipe_folder: None where the recipe never became known.
    """
    moment = started_at.strftime("%Y%m%dT%H%M%S") + f".{started_at.microsecond // 1000:03d}Z"
    return f"{moment}-{recipe_folder or 'no-recipe'}"


def publish_report(report: RunReport, output: OutputSettings) -> str:
    """Write the report as JSON and as a page.

    Returns:
        The URI of the JSON file; the page is beside it and ends in ``.html``.

    Raises:
        OSError: the storage failed.
    """
    base = f"{output.uri.rstrip('/')}/{FOLDER}/{report.name}"
    # Of the input's URLs, and of what drivers said of them.
    text = json.dumps(_unsigned(report.model_dump(mode="json")), indent=2, ensure_ascii=False)
    publish_bytes(f"{base}.json", f"{text}\n".encode(), output.storage_options)
    page = render_page(json.loads(text))
    publish_bytes(f"{base}.html", page.encode(), output.storage_options)
    return f"{base}.json"


def _unsigned(value: Any) -> Any:
    if isinstance(value, str):
        return unsigned(value)
    if isinstance(value, list):
        return [_unsigned(item) for item in value]
    if isinstance(value, dict):
        return {key: _unsigned(item) for key, item in value.items()}
    return value


def render_page(report: Mapping[str, Any]) -> str:
    """HTML with the worst news first.

    Args:
        report: a ``RunReport`` as its JSON file has it.
    """
    return page_template("cambox.nightly").render(report=report, most=MOST_LINES)
