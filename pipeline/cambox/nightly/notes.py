"""What the stations of a run returned, as the parts of its report, and what is left out of it.

Storage options may hold keys; a report is read by more people than may know them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cambox.config import Config
from cambox.console import one_line
from cambox.errors import RequestError
from cambox.nightly.report import (
    GivenUp,
    InputNote,
    RecipeNote,
    VerificationNote,
    WorkNote,
)
from cambox.output.footer import Recipe
from cambox.output.ledger import Plan
from cambox.sources.shards import Shard
from cambox.summary import RunSummary
from cambox.verify.verify import Verification

_HIDDEN = "***"
_OPTIONS = "storage_options"


def recipe_note(recipe: Recipe) -> RecipeNote:
    """The recipe, its settings readable."""
    return RecipeNote(
        folder=recipe.folder, digest=recipe.digest, settings=json.loads(recipe.settings)
    )


def input_note(work: Plan) -> InputNote:
    """The plan's counts."""
    return InputNote(
        shards=len(work.to_do) + len(work.done),
        new=len(work.new),
        changed=len(work.changed),
        done=len(work.done),
        orphaned=len(work.orphaned),
    )


def work_note(summary: RunSummary, missing: Sequence[Shard]) -> WorkNote:
    """What the run published and what it gave up."""
    return WorkNote(
        published=len(summary.reports),
        given_up=tuple(
            GivenUp(shard=failure.shard.uri, reason=failure.reason, attempts=failure.attempts)
            for failure in summary.failures
        ),
        missing=tuple(shard.uri for shard in missing),
        rows=dict(summary.statuses),
        boxes=summary.boxes,
        maps_without_a_box=dict(summary.no_box),
        seconds=summary.seconds,
        images_per_second=summary.images_per_second,
    )


def verification_note(found: Verification) -> VerificationNote:
    """The verdict on the recipe's whole folder."""
    return VerificationNote(
        ok=found.ok,
        files=found.files,
        rows=found.rows,
        statuses=dict(found.statuses),
        problems=found.problems,
        remarks=tuple(str(remark) for remark in found.remarks),
    )


def error_line(error: BaseException) -> str:
    """An error in one line, with its kind unless it is a request's, which says all itself."""
    text = one_line(error)
    return text if isinstance(error, RequestError) else f"{type(error).__name__}: {text}"


def without_secrets(command: Sequence[str]) -> tuple[str, ...]:
    """A command line without the values of overrides that set storage options."""
    return tuple(
        f"{argument.partition('=')[0]}={_HIDDEN}" if _OPTIONS in argument else argument
        for argument in command
    )


def config_without_secrets(config: Config) -> dict[str, Any]:
    """The configuration as JSON values, storage options by name only."""
    document = config.model_dump(mode="json")
    for section in ("input", "output"):
        document[section][_OPTIONS] = dict.fromkeys(document[section][_OPTIONS], _HIDDEN)
    return document
