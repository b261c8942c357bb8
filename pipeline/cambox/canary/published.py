"""Whether what is published was made as this machine would make it, before more is added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from cambox.canary.rows import Canary
from cambox.config import Config
from cambox.console import counted, say
from cambox.errors import RequestError
from cambox.output.footer import library_versions
from cambox.output.ledger import Plan, plan
from cambox.output.publish import file_name
from cambox.output.published_file import PublishedFile

if TYPE_CHECKING:
    from cambox.run import Engine


def of_one_kind(config: Config, engine: Engine, work: Plan, console: Console) -> Plan:
    """A plan that adds nothing to published files that this machine would have made otherwise.

    Files that say nothing of the built-in pictures are taken as they are.

    Raises:
        RequestError: there are some, and nobody has said what to do about them.
        OSError: the output cannot be listed, or a footer cannot be read.
    """
    what_to_do = config.engine.if_rows_differ
    done = _kept(work)
    # Where nothing would be added nothing is mixed.
    if not done or not (work.to_do or what_to_do == "redo"):
        return work
    now = engine.canary
    unlike: dict[str, str] = {}
    for canary in {file.canary for file in done if file.canary}:
        before = Canary.read(canary)
        if before and now and (found := before.difference(now)) is not None:
            unlike[canary] = found
    if not unlike:
        return work
    others = [file for file in done if file.canary in unlike]
    what = (
        f"{counted(len(others), 'published file')} of recipe {engine.recipe.folder} would get "
        f"other rows here: {next(iter(unlike.values()))} ({_versions(others)})"
    )
    if what_to_do == "stop":
        raise RequestError(
            f"output.uri: {what}; set engine.if_rows_differ to redo, which makes them anew, or to "
            "mix, or go back to the libraries that made them"
        )
    say(console, f"warning: {what}")
    if what_to_do == "mix":
        return work
    if work.redo.statuses:
        raise RequestError(
            "engine.if_rows_differ: redo makes all rows of such files anew; cambox annotate does it"
        )
    redo = replace(work.redo, canaries=frozenset(unlike))
    anew = plan(work.shards, engine.recipe, config.output, redo)
    say(console, f"planned again: {anew}")
    return anew


def _kept(work: Plan) -> list[PublishedFile]:
    """The files that stay, or some of whose rows do."""
    retried = work.outdated if work.redo.statuses else ()
    names = {file_name(shard.uri) for shard in (*work.done, *retried)}
    files = work.found.files if work.found is not None else {}
    return [file for name, file in files.items() if file is not None and name in names]


def _versions(others: Sequence[PublishedFile]) -> str:
    """Which libraries were others then."""
    here = library_versions()
    then = {pair for file in others for pair in file.versions.items()}
    changed = [
        f"{library} was {there} and is {here.get(library, 'none')}"
        for library, there in sorted(then)
        if here.get(library) != there
    ]
    return ", ".join(changed) or "the libraries have the same versions; so it is the machine"
