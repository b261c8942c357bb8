"""Settings from a file, a recipe's name and the command line; errors name every wrong key."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cambox.config import Config
from cambox.config_cam import BoxSettings, Section
from cambox.errors import RequestError, shortened
from cambox.yaml_text import NotYamlError, read_yaml, text_of

SUFFIX = ".yaml"
_EITHER = ("shards", "images")
_RECIPES = resources.files("cambox") / "recipes"
_PROBLEMS_SHOWN = 20
_Kind = TypeVar("_Kind", bound=Section)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML configuration and apply ``section.key=value`` overrides (values are YAML).

    >>> load_config("precise", ["cam.top_k=3"]).cam.top_k
    3

    Args:
        path: a file, or where there is none the name of a recipe, see ``recipe_names``.

    Raises:
        RequestError: the file is missing or not YAML, a key is unknown, or a value is wrong.
    """
    try:
        # Not exists(): `cambox demo` makes a folder of its recipe's name.
        by_name = not Path(path).is_file() and str(path) in recipe_names()
        text = recipe_text(str(path)) if by_name else text_of(path)
        document = read_yaml(text)
    except OSError as error:
        raise RequestError(
            f"{path}: {error.strerror}; name a configuration file, or one of "
            f"{', '.join(recipe_names())}"
        ) from error
    except (NotYamlError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}: not YAML: {shortened(' '.join(str(error).split()))}"
        ) from error
    if not isinstance(document, dict):
        raise RequestError(f"{path}: expected sections such as input: and model:, found none")
    return _with_overrides(Config, document, overrides, f"{path}: ")


def recipe_names() -> list[str]:
    """The recipes that come with cambox, which ``load_config`` knows by name."""
    files = (entry.name for entry in _RECIPES.iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX))


def recipe_text(name: str) -> str:
    """A recipe's YAML, as it is.

    Raises:
        RequestError: there is no recipe of that name.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise RequestError(f"{name}: no recipe of cambox; {hint}")
    return (_RECIPES / f"{name}{SUFFIX}").read_text(encoding="utf-8")


def override_boxes(settings: BoxSettings, overrides: Sequence[str]) -> BoxSettings:
    """Apply ``boxes.key=value`` overrides, the only ones for which stored maps are enough.

    Raises:
        RequestError: a key is of another section or unknown, or a value is wrong.
    """
    document: dict[str, Any] = {"boxes": settings.model_dump()}
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.split(".")[0] != "boxes":
            raise RequestError(
                f"--set {key}: stored maps are enough for the keys of boxes only; for this one "
                "run cambox annotate"
            )
    return _with_overrides(_OnlyBoxes, document, overrides, "").boxes


class _OnlyBoxes(Section):
    boxes: BoxSettings


def override(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with ``section.key=value`` overrides.

    Raises:
        RequestError: a key is unknown, or a value is wrong.
    """
    return _with_overrides(Config, config.model_dump(mode="json"), overrides, "", "")


def _with_overrides(
    kind: type[_Kind],
    document: dict[str, Any],
    overrides: Sequence[str],
    where: str,
    overriding: str = "--set ",
) -> _Kind:
    """The settings of a document with overrides.

    Args:
        where: what an error of the document's own begins with.
        overriding: the same of one that an override brought.
    """
    own = copy.deepcopy(document)
    for override in overrides:
        _apply(document, override)
    _let_the_command_line_win(document, {one.partition("=")[0].strip() for one in overrides})
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        own_problems = {_identity(problem) for problem in _problems(kind, own)}
        texts: dict[str, list[str]] = {where: [], overriding: []}
        for problems in _by_setting(error.errors(include_url=False)):
            is_own = _identity(problems[0]) in own_problems
            texts[where if is_own else overriding].append(_explain(problems))
        lines = [f"{begin}{_joined(some)}" for begin, some in texts.items() if some]
        raise RequestError(" | ".join(lines)) from error


def _joined(problems: Sequence[str]) -> str:
    more = len(problems) - _PROBLEMS_SHOWN
    return " | ".join([*problems[:_PROBLEMS_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _problems(kind: type[Section], document: dict[str, Any]) -> list[ErrorDetails]:
    try:
        kind.model_validate(document)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _identity(problem: ErrorDetails) -> tuple[object, ...]:
    """What tells one problem from another; a section's values may differ where it is the same."""
    value = problem["input"]
    given = None if isinstance(value, dict) else repr(value)
    return problem["loc"], problem["type"], problem["msg"], given


def _by_setting(problems: Sequence[ErrorDetails]) -> list[list[ErrorDetails]]:
    """A setting of several types has one problem for each type that it is not."""
    groups: dict[tuple[object, ...], list[ErrorDetails]] = {}
    for problem in problems:
        place = problem["loc"]
        if problem["type"] != "extra_forbidden":
            place = tuple(_settings(place)[0])
        groups.setdefault(place, []).append(problem)
    return list(groups.values())


def _let_the_command_line_win(document: dict[str, Any], overridden: set[str]) -> None:
    """Weights that are given there take the place of the file's, which exclude them."""
    model = document.get("model")
    if not isinstance(model, dict):
        return
    for key, other, none in (
        ("checkpoint", "pretrained", False),
        ("pretrained", "checkpoint", None),
    ):
        if f"model.{key}" in overridden and f"model.{other}" not in overridden and model.get(key):
            model[other] = none


def _apply(document: dict[str, Any], override: str) -> None:
    target, equals, text = override.partition("=")
    names = target.strip().split(".")
    if not equals or not all(names):
        raise RequestError(
            f"--set {shortened(override)}: expected section.key=value, such as cam.top_k=3"
        )
    try:
        value = read_yaml(text)
    except NotYamlError as error:
        # Not the value, in which there may be a password.
        raise RequestError(f"--set {target.strip()}: the value is not YAML; quote it") from error
    # Given here, one takes the place of the other in the file.
    section, _, key = target.strip().partition(".")
    if section == "input" and key in _EITHER and isinstance(document.get(section), dict):
        document[section] = {
            name: given
            for name, given in document[section].items()
            if name not in _EITHER or name == key
        }
    place = document
    for name in names[:-1]:
        inner = place.get(name)
        if inner is None:
            inner = place[name] = {}
        if not isinstance(inner, dict):
            raise RequestError(f"--set {target.strip()}: {name} has no keys of its own")
        place = inner
    place[names[-1]] = value


def _explain(problems: Sequence[ErrorDetails]) -> str:
    """What is wrong with one setting: the key and the remedy."""
    first = problems[0]
    keys, _ = _settings(first["loc"])
    key = ".".join(keys) or "configuration"
    if first["type"] == "extra_forbidden":
        _, known = _settings(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        unknown = ".".join(str(part) for part in first["loc"])
        return f"{shortened(unknown)}: unknown key; {hint}"
    if first["type"] == "missing" and len(keys) == len(first["loc"]):
        return f"{key}: missing; set it in the file or with --set {key}=..."
    messages = [problem["msg"].removeprefix("Value error, ") for problem in problems]
    given = "" if isinstance(first["input"], dict) else f", got {shortened(repr(first['input']))}"
    if keys[-1:] == ["storage_options"]:
        given = ""  # there may be a password in it
    text = "; or: ".join(dict.fromkeys(messages))
    return f"{key}: {text}{given if given not in text else ''}"


def _settings(location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The part of a pydantic location that names settings, without its type tags; and its keys."""
    section: type[Section] | None = Config
    names: list[str] = []
    for part in map(str, location):
        if section is None or part not in section.model_fields:
            break
        names.append(part)
        annotation = section.model_fields[part].annotation
        # A section that may be null is still a section.
        kinds = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
        section = next((kind for kind in kinds if issubclass(kind, Section)), None)
    return names, list(section.model_fields) if section else []
