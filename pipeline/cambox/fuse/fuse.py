"""A whole fusion: the files that two outputs have of the same shards, as a third recipe."""

from __future__ import annotations

import functools
from dataclasses import replace

import pyarrow as pa

from cambox.console import Advance, one_line
from cambox.errors import RequestError
from cambox.fuse.rows import SAMPLE, Fused, Fusion, fuse_rows
from cambox.output.derived import Derived, Parents, derive, whole_rows
from cambox.output.footer import Recipe
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.output.rows import SCHEMA


def fuse_outputs(
    first: str, second: str, to: str, fusion: Fusion, on_file: Advance | None = None
) -> Derived[Fused]:
    """Make one output of two, for every shard that both have and that has no file yet.

    A shard that one of them lacks is given up, and not taken from the other: a box_score would
    mean one thing here and another there, and a later run adds it once both have it.

    Args:
        first, second: URIs of recipes' folders, or of outputs (see ``recipe_folder``): A and B.
        to: URI of the new output.
        on_file: called after each file.

    Raises:
        RequestError: an output is wrong, or the two are not of the same classes and shards.
    """
    of_a, of_b = open_recipe(first), open_recipe(second)
    _require_same_classes(of_a, of_b)
    recipe = _fused_recipe(of_a, of_b, fusion)
    files_a, files_b = ({file.name: file for file in one.files} for one in (of_a, of_b))
    both = [(files_a[name], files_b[name]) for name in files_a if name in files_b]
    if not both:
        raise RequestError(
            f"{of_a.uri} and {of_b.uri} have no shard in common, such as "
            f"{of_a.files[0].shard.uri}; name two outputs of the same shards"
        )
    make = functools.partial(_fuse, fusion, recipe.class_names)
    derived = derive(to, recipe, both, make, Fused(), in_processes=True, on_file=on_file)
    alone = {
        file.uri: f"{other.uri} has no file of {file.shard.uri}; annotate it there as well"
        for mine, others, other in ((files_a, files_b, of_b), (files_b, files_a, of_a))
        for name, file in mine.items()
        if name not in others
    }
    return replace(derived, failures=alone | dict(derived.failures))


def _require_same_classes(of_a: PublishedRecipe, of_b: PublishedRecipe) -> None:
    names_a, names_b = of_a.footer.classes, of_b.footer.classes
    if names_a == names_b:
        return
    if len(names_a) != len(names_b):
        what = f"{of_b.uri} has {len(names_b)} classes, {of_a.uri} {len(names_a)}"
    else:
        at = next(at for at, name in enumerate(names_a) if name != names_b[at])
        what = f"class {at} is {names_b[at]!r} in {of_b.uri}, {names_a[at]!r} in {of_a.uri}"
    raise RequestError(f"{what}; name two outputs of the same classes in the same order")


def _fused_recipe(of_a: PublishedRecipe, of_b: PublishedRecipe, fusion: Fusion) -> Recipe:
    """A's recipe, without what is not carried, and what was made of it and of B's."""
    settings = of_a.settings
    settings["output"] = {"store_maps": False}
    digests = [one.footer.recipe_digest for one in (of_a, of_b)]
    settings["fuse"] = {"of": digests, **fusion.to_settings()}
    return Recipe.of(settings, of_a.footer.classes)


def _fuse(fusion: Fusion, class_names: tuple[str, ...], parents: Parents) -> tuple[pa.Table, Fused]:
    of_a, of_b = parents
    if of_a.shard.fingerprint != of_b.shard.fingerprint:
        raise RequestError(
            f"{of_b.uri} is of another state of {of_a.shard.uri}; annotate both again"
        )
    try:
        second = whole_rows(of_b, (*SAMPLE, "objects"))
    except (OSError, pa.ArrowException, RequestError) as error:
        raise RequestError(f"{of_b.uri}: {one_line(error)}") from error
    return fuse_rows(whole_rows(of_a, SCHEMA.names), second, fusion, class_names)
