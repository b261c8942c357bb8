"""A whole run: find the shards, plan, annotate what is missing."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import Version
from rich.console import Console

from cambox.canary.published import of_one_kind
from cambox.config import Config
from cambox.config_file import load_config
from cambox.console import say, saying_notes
from cambox.errors import RequestError
from cambox.output.footer import Recipe
from cambox.output.ledger import Plan, Redo, plan
from cambox.planned import annotate_planned
from cambox.resolve import recipe_key, remember, remembered
from cambox.sources.class_list import find_class_list
from cambox.sources.retry import as_request
from cambox.sources.shards import Shard, find_shards, name_failures
from cambox.sources.storage import locate
from cambox.sources.stream import with_content_fingerprints
from cambox.summary import RunSummary

if TYPE_CHECKING:
    # They bring torch, which a wrong request and a plan need not wait for.
    from cambox.engines.cluster import RayEngine
    from cambox.engines.local import LocalEngine

    Engine = LocalEngine | RayEngine

ORPHANS_NAMED = 10


def annotate(config: Config | str | Path) -> RunSummary:
    """Annotate every shard of the input that is not annotated yet; prints nothing.

    >>> annotate("demo").complete
    True

    Args:
        config: a configuration, the path of one, or the name of a recipe (``cambox recipes``).

    Raises:
        RequestError: the request cannot be carried out as it stands; it says why in one line.
    """
    settings = config if isinstance(config, Config) else load_config(config)
    return run(settings, Console(quiet=True))


def run(config: Config, console: Console, redo_older_than: Version | None = None) -> RunSummary:
    """Annotate every shard of the input that is not published under the same recipe yet.

    Args:
        redo_older_than: also those that an older version of cambox made.

    Raises:
        RequestError: the request cannot be carried out as it stands.
    """
    engine, work = prepare(config, console, redo_older_than)
    return annotate_planned(config, engine, work, console)


def prepare(
    config: Config, console: Console, redo_older_than: Version | None = None
) -> tuple[Engine, Plan]:
    """Load the model, find the shards and say what there is to do.

    Raises:
        RequestError: the request cannot be carried out as it stands.
    """
    config, shards, key = checked(config, console)
    engine = _loaded(config, key, console)
    work = _planned(config, shards, engine.recipe, console, Redo(redo_older_than))
    return engine, of_one_kind(config, engine, work, console)


def retry(config: Config, statuses: Collection[str], console: Console) -> RunSummary:
    """Make the rows of some statuses again, of the shards that are published under the recipe.

    A row that gets the same status again stays what it was, and so do all others.

    Raises:
        RequestError: the request cannot be carried out as it stands.
    """
    config, shards, key = checked(config, console)
    redo = Redo(statuses=frozenset(statuses))
    engine = _loaded(config, key, console, redo.statuses)
    work = _planned(config, shards, engine.recipe, console, redo)
    if not (work.outdated or work.done):
        raise RequestError(
            f"output.uri: {config.output.uri} has no file of recipe {engine.recipe.folder}; run "
            "cambox annotate first, with the same settings (cambox list says which are there)"
        )
    return annotate_planned(config, engine, of_one_kind(config, engine, work, console), console)


def plan_only(
    config: Config, console: Console, redo_older_than: Version | None = None
) -> tuple[Recipe, Plan]:
    """Say what ``run`` would do; the model is loaded only where no earlier run has kept its recipe.

    Raises:
        RequestError: the request cannot be carried out as it stands.
    """
    config, shards, key = checked(config, console)
    recipe = remembered(key) or _loaded(config, key, console).recipe
    return recipe, _planned(config, shards, recipe, console, Redo(redo_older_than))


def checked(config: Config, console: Console) -> tuple[Config, list[Shard], str | None]:
    """All that can be wrong with a request before a model is loaded.

    Returns:
        The configuration with the list of classes that lies beside the shards, the shards, and the
        recipe's key.
    """
    options = config.input.storage_options
    setting = "input.images" if config.input.images else "input.shards"
    with as_request(f"{setting}: the input cannot be read"):
        listed: str | tuple[str, ...] | None
        if config.input.images:
            shards, listed = _chunks(config, console)
        else:
            shards = find_shards(config.input.shards, options)
            listed = config.input.class_names or find_class_list(shards, options)
        if config.input.fingerprint == "content":
            shards = with_content_fingerprints(shards, options)
        if config.input.class_names is None and listed:
            found = config.input.model_copy(update={"class_names": listed})
            config = config.model_copy(update={"input": found})
    with name_failures("output.uri", config.output.uri):
        locate(config.output.uri, config.output.storage_options)
    return config, shards, recipe_key(config)


def _chunks(config: Config, console: Console) -> tuple[list[Shard], tuple[str, ...]]:
    # Late: it brings what reads tables, which shards need not wait for.
    from cambox.sources.chunks import find_chunks

    settings = config.input
    return find_chunks(
        settings.images, settings.chunks, settings.storage_options, lambda note: say(console, note)
    )


def _loaded(
    config: Config, key: str | None, console: Console, retried: frozenset[str] = frozenset()
) -> Engine:
    say(console, f"loading model {config.model.name}")
    with saying_notes(console):
        engine = make_engine(config, retried)
    remember(key, engine.recipe)
    return engine


def make_engine(config: Config, retried: frozenset[str] = frozenset()) -> Engine:
    """The configured engine, its model loaded and its recipe resolved.

    Args:
        retried: the statuses of the only rows to make; none: whole files.
    """
    if config.engine.name == "local":
        from cambox.engines.local import LocalEngine

        return LocalEngine(config, retried)
    # Ray takes seconds to import and a laptop does not need it.
    from cambox.engines.cluster import RayEngine

    return RayEngine(config, retried)


def _planned(
    config: Config,
    shards: list[Shard],
    recipe: Recipe,
    console: Console,
    redo: Redo,
) -> Plan:
    if not config.model.has_weights:
        say(
            console,
            "warning: model.checkpoint is null and model.pretrained is false, so the weights are "
            "random and the boxes mean nothing",
        )
    with as_request(f"output.uri: {config.output.uri} cannot be listed"):
        work = plan(shards, recipe, config.output, redo)
    say(console, f"{work}; recipe {recipe.folder}")
    for uri in work.orphaned[:ORPHANS_NAMED]:
        say(console, f"orphaned, no longer in the input: {uri}")
    if len(work.orphaned) > ORPHANS_NAMED:
        say(console, f"and {len(work.orphaned) - ORPHANS_NAMED} more orphaned")
    if work.mixed_versions:
        say(console, f"published with several versions: {', '.join(work.mixed_versions)}")
    return work
