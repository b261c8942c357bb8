"""What is made as high as possible, and the settings to choose from.

The settings are a grid over those of the boxes, and passes over the images.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cambox.config import Config
from cambox.config_file import load_config, override
from cambox.errors import RequestError
from cambox.yaml_text import NotYamlError, read_yaml

RECIPE = "recipe"
Choice = dict[str, Any]
"""Settings by their dotted keys, such as boxes.threshold; ``RECIPE`` is those of a whole recipe."""

GRID: dict[str, Sequence[Any]] = {
    "boxes.threshold": [round(0.04 * step, 2) for step in range(1, 25)],
    "boxes.percentile": [100.0, 95.0, 90.0, 80.0],
}
# For average precision, where every box counts and not only the best: fewer thresholds, because
# the grid has another side.
GRID_OF_EVERY_BOX: dict[str, Sequence[Any]] = {
    "boxes.threshold": [round(0.08 * step, 2) for step in range(1, 12)],
    "boxes.percentile": [100.0, 90.0],
    "boxes.min_area": [0.0, 0.01, 0.03],
}

_FIXED = {
    "input": "the images are what is compared on",
    "output": "it changes no box",
    "engine": "it changes no row",
    "boxes.calibration": "it is fitted to the boxes of the settings that are chosen",
    "boxes.min_score": "it trades found objects for sureness, as you like; see cambox evaluate",
    "cam.classes": "it changes which boxes are asked for, not how good they are",
}

OBJECTIVES = {
    "gt-known": "GT-known localisation at IoU 0.5: the first box of each given class",
    "v2": "any box of each given class, mean over IoU 0.3, 0.5 and 0.7, one setting for all three",
    "ap": "average precision of all boxes at IoU 0.5",
}
"""The figures that settings are chosen by."""


def objective_of(name: str | None, labels: bool) -> str:
    """The objective; None: GT-known where given labels get boxes, else AP.

    Raises:
        RequestError: there is none of that name, or it needs boxes of labels.
    """
    if name is None:
        return "gt-known" if labels else "ap"
    if name not in OBJECTIVES:
        raise RequestError(f"--objective: {name!r} is not one of {', '.join(OBJECTIVES)}")
    if name != "ap" and not labels:
        raise RequestError(
            f"--objective {name}: cam.classes is predicted, so no box is of a given label; "
            "use --set cam.classes=both, or --objective ap"
        )
    return name


def space(
    config: Config, tried: Sequence[str], beside: Sequence[str], every_box: bool
) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
    """The default grid, with what ``--try`` adds or replaces, and other recipes.

    Args:
        tried: ``section.key=[value, ...]``, values in YAML.
        beside: names of recipes, or files.
        every_box: the objective counts all boxes and not one of each class.

    Returns:
        Choices of box settings, and of others, each of which takes a pass over the images; the
        first of both changes nothing.

    Raises:
        RequestError: a key is unknown or makes no sense here, or a value is wrong or no list.
    """
    of_boxes = dict(GRID_OF_EVERY_BOX if every_box else GRID)
    of_passes: dict[str, Sequence[Any]] = {}
    for text in tried:
        key, values = _parsed(text)
        try:
            for value in values:
                changed(config, {key: value})
        except RequestError as error:
            raise RequestError(f"--try {error}") from error
        (of_boxes if key.startswith("boxes.") else of_passes)[key] = values
    recipes = tuple({RECIPE: name} for name in beside)
    for choice in recipes:
        changed(config, choice)
    return _product(of_boxes), (*_product(of_passes), *recipes)


def changed(config: Config, choice: Mapping[str, Any]) -> Config:
    """The configuration with other settings.

    Raises:
        RequestError: a setting is unknown or its value wrong, or there is no such recipe.
    """
    if RECIPE in choice:
        config = _as_recipe(config, load_config(choice[RECIPE]))
        choice = {key: value for key, value in choice.items() if key != RECIPE}

    def as_yaml(value: Any) -> str:
        # A plain value ends with the mark of a document's end.
        return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()

    return override(config, [f"{key}={as_yaml(value)}" for key, value in choice.items()])


def _as_recipe(config: Config, recipe: Config) -> Config:
    """A configuration whose input to the network, maps and boxes are made as a recipe has it.

    Its images, classifier and wanted classes stay.
    """
    model = ("input_size", "class_input_size", "keep_aspect")
    cam = ("classes", "top_k", "ranks", "min_probability")
    kept = {name: getattr(config.cam, name) for name in cam}
    return config.model_copy(
        update={
            "model": config.model.model_copy(
                update={name: getattr(recipe.model, name) for name in model}
            ),
            "cam": recipe.cam.model_copy(update=kept),
            "boxes": recipe.boxes,
        }
    )


def settings_text(choice: Choice, none: str = "as given") -> str:
    """Settings in one line; ``none`` where there are none."""
    return ", ".join(f"{key}={value}" for key, value in choice.items()) or none


def _parsed(text: str) -> tuple[str, list[Any]]:
    key, equals, listed = text.partition("=")
    key = key.strip()
    try:
        values = read_yaml(listed)
    except NotYamlError as error:
        raise RequestError(f"--try {text}: the values are not YAML; quote them") from error
    if not (equals and key and isinstance(values, list) and values):
        raise RequestError(
            f"--try {text}: expected section.key=[value, ...], such as cam.refine.steps=[0, 1, 2]"
        )
    for fixed, why in _FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            raise RequestError(f"--try {key}: {why}; use --set to change it")
    return key, values


def _product(values: Mapping[str, Sequence[Any]]) -> tuple[Choice, ...]:
    combinations = itertools.product(*values.values())
    return ({}, *(dict(zip(values, chosen, strict=True)) for chosen in combinations if chosen))
