"""Doing what was planned: under a lease, by an engine, and with a manifest at the end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console

from cambox.config import Config, OutputSettings
from cambox.console import counted, one_line, say
from cambox.errors import RequestError
from cambox.output.commit import commit
from cambox.output.footer import Recipe
from cambox.output.known_file import names_in
from cambox.output.lease import Taken, held
from cambox.output.ledger import Plan, plan
from cambox.output.manifest import GivenUpShard, newest_manifest
from cambox.output.publish import file_name, recipe_uri, remove_leftovers, require_publishable
from cambox.output.recheck import recheck
from cambox.sources.retry import as_request
from cambox.sources.samples import ImageRule
from cambox.summary import RunSummary, print_summary

if TYPE_CHECKING:
    from cambox.run import Engine


def annotate_planned(config: Config, engine: Engine, work: Plan, console: Console) -> RunSummary:
    """Do what was found to do, with the engine that ``prepare`` gave, and say what there is now.

    Raises:
        UnavailableError: another run of the recipe is at work, or the manifest cannot be written.
    """
    recipe, output = engine.recipe, config.output
    folder = recipe_uri(output, recipe)
    if removed := remove_leftovers(output, recipe):
        say(console, f"removed {removed} temporary files of runs that died")
    if not work.to_do:
        return _ended(config, RunSummary(folder, recipe, work, (), (), 0.0), console)
    # Told once and now, and not by each shard when it is computed.
    require_publishable(output, recipe)
    with held(folder, output.storage_options) as taken:
        work = _if_still_to_do(work, recipe, output, taken, console)
        return _ended(config, _annotated(config, engine, work, console), console)


def _if_still_to_do(
    work: Plan, recipe: Recipe, output: OutputSettings, taken: Taken | None, console: Console
) -> Plan:
    """The same plan, or another where another run has ended since it was made."""
    folder = recipe_uri(output, recipe)
    dead = taken.from_dead if taken else None
    if dead is not None:
        since = f"{dead.since:%Y-%m-%d %H:%M} UTC"
        say(console, f"taken over from {dead.holder}, which began {since} and did not end")
    with as_request(f"output.uri: {output.uri} cannot be listed"):
        _, newest = newest_manifest(folder, output.storage_options)
        if dead is None and (work.found is None or work.found.manifest == newest):
            return work
        work = plan(work.shards, recipe, output, work.redo)
    say(console, f"planned again: {work}")
    return work


def _annotated(config: Config, engine: Engine, work: Plan, console: Console) -> RunSummary:
    from cambox.engines.display import RunDisplay
    from cambox.engines.worklist import ShardFailure

    to_do = work.to_do
    folder = recipe_uri(config.output, engine.recipe)
    with RunDisplay(console, len(to_do), sum(shard.size for shard in to_do)) as display:
        try:
            outcomes = engine.annotate(to_do, display) if to_do else []
        except KeyboardInterrupt:
            # A storage that fails just now must not hide that a person ended the run.
            with suppress(OSError):
                say(console, _interrupted(work, folder, config))
            raise
        seconds = display.seconds
    failures = tuple(outcome for outcome in outcomes if isinstance(outcome, ShardFailure))
    reports = tuple(outcome for outcome in outcomes if not isinstance(outcome, ShardFailure))
    return RunSummary(folder, engine.recipe, work, reports, failures, seconds)


def _ended(config: Config, summary: RunSummary, console: Console) -> RunSummary:
    """Write down what is published now."""
    work = summary.plan
    # One that was rewritten during the run is published as it was when it was read.
    read = {one.shard.uri: one.shard for one in summary.reports}
    given_up = [
        GivenUpShard(
            shard=one.shard.uri,
            fingerprint=one.shard.fingerprint,
            reason=one.reason,
            attempts=one.attempts,
        )
        for one in summary.failures
    ]
    shards = [read.get(shard.uri, shard) for shard in work.shards]
    now, found, done = datetime.now(UTC), work.found, work.to_do
    try:
        with as_request(f"output.uri: {config.output.uri} does not take the manifest of its files"):
            manifest = commit(config.output, summary.recipe, shards, given_up, now, found, done)
    except RequestError:
        # The files are published, and stay so. Nobody gets the summary to tell what became of them.
        print_summary(summary, console)
        raise
    if summary.reports:
        _recheck_reviews(config, summary, console)
    return replace(summary, manifest=manifest)


def _recheck_reviews(config: Config, summary: RunSummary, console: Console) -> None:
    """See which pictures that people have reviewed are in the shards that were done anew.

    Nothing of the run depends on it, and what was not checked is said by readers as well.
    """
    options = config.output.storage_options
    rule = ImageRule(config.input.image, config.input.several_images)
    try:
        found = recheck(summary.folder, rule, options, config.input.storage_options)
    except (OSError, RequestError) as error:
        say(console, f"reviewed rows were not checked: {one_line(error)}")
    else:
        say(console, *found.lines())


def _interrupted(work: Plan, folder: str, config: Config) -> str:
    """What is published, and what to do about the rest."""
    # Those that were in work may have been published after the last that was told of.
    names = set(names_in(folder, config.output.storage_options))
    published = len(work.done) + sum(file_name(shard.uri) in names for shard in work.new)
    again = len(work.changed) + len(work.outdated)
    anew = f", {again} to be done anew are in work" if again else ""
    all_shards = counted(len(work.shards), "shard")
    return (
        f"interrupted: {published} of {all_shards} published in {folder}{anew}; the same command "
        "goes on with the rest"
    )
