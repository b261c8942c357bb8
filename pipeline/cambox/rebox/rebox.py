"""A whole rebox: what is missing or changed, file by file, published as annotating would."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pyarrow as pa

from cambox.cams.geometry import MapGeometry
from cambox.config_cam import BoxSettings
from cambox.config_file import override_boxes
from cambox.console import Advance
from cambox.errors import RequestError
from cambox.output.derived import Derived, Parents, derive, whole_rows
from cambox.output.footer import Recipe
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.rebox.rows import Reboxed, rebox_rows

ReboxSummary = Derived[Reboxed]


def rebox_output(
    output: str, to: str, overrides: Sequence[str], on_file: Advance | None = None
) -> ReboxSummary:
    """Make new boxes from an output's maps, for every file that has none yet.

    Args:
        output: URI of a recipe's folder, or of an output (see ``recipe_folder``); with maps.
        to: URI of the new output.
        overrides: ``boxes.key=value``, the value in YAML.
        on_file: called after each file.

    Raises:
        RequestError: the output or an override is wrong.
    """
    source = open_recipe(output)
    recipe, boxes = _reboxed_recipe(source, overrides)
    make = functools.partial(_rebox, boxes, source.geometry, recipe.class_names)
    sources = [(file,) for file in source.files]
    # Threads did not pay when last measured, before boxes were compiled; rows are still Python.
    return derive(to, recipe, sources, make, Reboxed(), in_processes=True, on_file=on_file)


def _reboxed_recipe(
    source: PublishedRecipe, overrides: Sequence[str]
) -> tuple[Recipe, BoxSettings]:
    """The source's recipe with other boxes; ``rebox.maps_of`` names the recipe that made the maps.

    Raises:
        RequestError: the source has no maps or is of another cambox, or an override is wrong.
    """
    settings = source.settings
    try:
        if not settings["output"]["store_maps"]:
            raise RequestError(
                "OUTPUT holds no maps to make boxes from; annotate once more with "
                "--set output.store_maps=true"
            )
        boxes = override_boxes(BoxSettings.model_validate(settings["boxes"]), overrides)
    except (KeyError, TypeError, ValueError) as error:
        raise source.other_make() from error
    settings["boxes"] = boxes.model_dump()
    # Boxes follow from maps and settings, through however many steps these were arrived at.
    settings.setdefault("rebox", {"maps_of": source.footer.recipe_digest})
    return Recipe.of(settings, source.footer.classes), boxes


def _rebox(
    boxes: BoxSettings, geometry: MapGeometry, class_names: Sequence[str], parents: Parents
) -> tuple[pa.Table, Reboxed]:
    (file,) = parents
    return rebox_rows(whole_rows(file), boxes, geometry, class_names)
