"""From the configuration and the loaded classifier to the recipe that shapes the rows.

A recipe is known once the model is loaded, which takes seconds. The recipes of earlier runs are
kept in the user's cache, so that ``cambox plan`` need not load it again to say that all is done.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from cambox.config import LOCAL_DIR, Config, ModelSettings
from cambox.errors import RequestError
from cambox.output.footer import SCHEMA_VERSION, Recipe, library_versions, recipe_digest
from cambox.output.whole import publish_bytes
from cambox.sources.class_list import difference, read_class_list
from cambox.sources.retry import from_storage
from cambox.sources.shards import name_failures
from cambox.sources.storage import canonical_uri, fingerprint, locate
from cambox.threads import usable_cpus
from cambox.yaml_text import MOST_CHARACTERS, text_of

if TYPE_CHECKING:
    from cambox.models.classifier import Classifier

LOG = logging.getLogger(__name__)

IMAGENET_CLASS_COUNT = 1000
# What ImageNet's folders are called, whose sorted names its classes follow.
SYNSET = re.compile(r"n\d{8}")
RECIPES_KEPT = 200
# All but these settings, and files whose contents count.
_SHAPE_NO_ROW: dict[str, set[str]] = {
    "input": {
        *("shards", "images", "class_names", "fingerprint", "max_sample_bytes"),
        "storage_options",
    },
    "model": {"checkpoint", "class_names", "class_groups", "compile"},
    "output": {"uri", "storage_options"},
    "engine": {
        *("batch_size", "max_attempts", "stall_seconds", "start_seconds", "wait_seconds"),
        "if_rows_differ",
    },
}


def resolve_recipe(config: Config, classifier: Classifier) -> Recipe:
    """Resolve every ``null`` and ``auto`` that shapes rows, with the weights' digest.

    Raises:
        RequestError: the class names do not fit the model, the labels count other classes than
            it has, or ``top_k`` exceeds them.
    """
    if config.cam.top_k > classifier.class_count:
        raise RequestError(
            f"cam.top_k: {config.cam.top_k} is more than the model's "
            f"{classifier.class_count} classes; lower it"
        )
    preprocessing = classifier.preprocessing
    settings: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        # What came later only where it is not the default: other recipes stay what they were.
        "input": {"labels": config.input.labels, "max_pixels": config.input.max_pixels}
        | config.input.model_dump(
            include={"image", "several_images", "chunks"}, exclude_defaults=True
        )
        | ({"decoder": "gpu"} if config.input.decoder == "gpu" else {}),
        "model": {
            "name": _without_its_place(config.model),
            "kwargs": config.model.kwargs,
            "weights": classifier.weights_digest,
            # One number, the longer side, where an image keeps its shape.
            "input_size": [preprocessing.height, preprocessing.width]
            if classifier.aspect == "squashed"
            else preprocessing.height,
            "class_input_size": list(classifier.class_size) if classifier.class_size else None,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "precision": classifier.precision,
            "activation": config.model.activation,
        },
        "cam": config.cam.model_copy(update={"offset": classifier.offset}).model_dump()
        | {"nonlinear_head": str(classifier.head.kind)},
        "boxes": config.boxes.model_dump(),
        "output": config.output.model_dump(include={"store_maps"})
        | config.output.model_dump(include={"store_features"}, exclude_defaults=True),
    }
    groups, listed = classifier.groups, listed_classes(config)
    if groups is None:
        names = class_names(config.model.class_names, classifier.class_count, listed)
    else:
        names = groups.names
        # Only where they are asked for: other recipes stay what they were.
        settings["model"]["class_groups"] = dict(zip(names, groups.members, strict=True))
    _require_same_classes(config, listed, names)
    if config.cam.background is not None and config.cam.background not in names:
        near = difflib.get_close_matches(config.cam.background, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "name one of them, or set it to null"
        raise RequestError(
            f"cam.background: {config.cam.background} is none of the model's classes; {hint}"
        )
    return Recipe.of(settings, names)


def _without_its_place(model: ModelSettings) -> str:
    """The model's name; of one in a folder what is the same on every machine."""
    return f"{LOCAL_DIR}:{Path(model.name).name}" if model.source == LOCAL_DIR else model.name


def class_names(path: str | None, class_count: int, listed: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of a model's classes: from a file, the shards', ImageNet's, or their numbers.

    Args:
        listed: the classes that the shards' labels count, if that is known.

    Raises:
        RequestError: the file cannot be read, or has another number of names.
    """
    if path is not None:
        names = read_class_list("model.class_names", path)
        if len(names) != class_count:
            raise RequestError(
                f"model.class_names: {path} has {len(names)} names, one a line; the model has "
                f"{class_count} classes"
            )
        return names
    codes = all(SYNSET.fullmatch(name) for name in listed)
    if len(listed) == class_count and not (codes and class_count == IMAGENET_CLASS_COUNT):
        return tuple(listed)
    if class_count == IMAGENET_CLASS_COUNT:
        # Late: only a run that has loaded a model comes here.
        import torchvision

        weights = torchvision.models.ResNet18_Weights.DEFAULT
        return tuple(weights.meta["categories"])
    return tuple(str(index) for index in range(class_count))


def listed_classes(config: Config) -> tuple[str, ...]:
    """The classes that labels count; none where that is not known."""
    settings = config.input
    if not isinstance(settings.class_names, str):
        return settings.class_names or ()
    return read_class_list("input.class_names", settings.class_names, settings.storage_options)


def _list_of(config: Config) -> str:
    """Where the names of the labels' classes are from."""
    given, images = config.input.class_names, config.input.images
    if isinstance(given, str):
        return given
    return f"the folder {', '.join(images)}" if images else "the configuration"


def _require_same_classes(config: Config, listed: Sequence[str], names: Sequence[str]) -> None:
    """Refuse labels that count other classes than the model has, where they get the boxes."""
    if not listed or not config.cam.uses_labels:
        return
    differs = difference(listed, names)
    if differs is not None:
        raise RequestError(
            f"input.class_names: {_list_of(config)} lists {differs}, so that labels would "
            f"get boxes of other classes; set model.checkpoint to a classifier of the listed "
            f"classes, or model.class_groups to a file that says which of the model's each of them "
            f"is, or pack with --class-names of the model's list, or set cam.classes=predicted"
        )
    LOG.info("the labels' %d classes are those of %s", len(listed), _list_of(config))


def _read(setting: str, path: str) -> str:
    try:
        text = text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{setting}: {path} cannot be read: {error}") from error
    if len(text) > MOST_CHARACTERS:
        raise RequestError(f"{setting}: {path} is longer than {MOST_CHARACTERS} characters")
    return text


def recipe_key(config: Config) -> str | None:
    """All that a recipe depends on, as far as it is known without loading the model.

    Weights of a hub count as those that the libraries' versions name.

    Returns:
        None where it cannot be told whether the checkpoint, the repository or the folder of the
        model has changed.

    Raises:
        RequestError: the checkpoint, or a file of class names or groups, is not there.
    """
    model = config.model
    if model.source is not None:
        return None
    files = {"class_names": model.class_names, "class_groups": model.class_groups}
    texts = {
        name: None if path is None else _read(f"model.{name}", path) for name, path in files.items()
    }
    checkpoint = None
    if model.checkpoint is not None:
        checkpoint = _checkpoint(model.checkpoint)
        if checkpoint is None:
            return None
    gpus = sorted(path.name for path in Path("/dev").glob("nvidia*"))
    known = {
        # Threads and devices as well: the rounding of the head, which is probed, depends on them.
        "settings": config.model_dump(mode="json", exclude=_SHAPE_NO_ROW),
        "checkpoint": checkpoint,
        **texts,
        "listed_classes": listed_classes(config),
        "versions": {**library_versions(), "schema": SCHEMA_VERSION},
        "machine": [platform.node(), platform.machine(), usable_cpus(), *gpus],
        "environment": [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS")],
    }
    return json.dumps(known, sort_keys=True)


def remember(key: str | None, recipe: Recipe) -> None:
    """Keep the recipe that a loaded model gave, under the key from before it was loaded.

    A cache that cannot be written is none.
    """
    if key is None:
        return
    path = _place(key)
    with suppress(OSError):
        entry = {"settings": recipe.settings, "class_names": recipe.class_names}
        publish_bytes(str(path), json.dumps(entry).encode())
        latest_first = sorted(path.parent.iterdir(), key=lambda kept: -kept.stat().st_mtime)
        for old in latest_first[RECIPES_KEPT:]:
            old.unlink()


def remembered(key: str | None) -> Recipe | None:
    """The recipe that was kept under a key; None where there is none, or it cannot be read."""
    if key is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(_place(key).read_text(encoding="utf-8"))
        settings, names = str(entry["settings"]), tuple(map(str, entry["class_names"]))
        return Recipe(settings, names, recipe_digest(settings, names))
    return None


def _place(key: str) -> Path:
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("cambox") / "recipes" / f"{name}.json"


def _checkpoint(uri: str) -> str | None:
    """The state of a file of weights; None where its storage tells no more than a size."""
    with name_failures("model.checkpoint", uri):
        filesystem, path = locate(uri)
    try:
        info = from_storage(uri, lambda: filesystem.info(path))
    except FileNotFoundError as error:
        raise RequestError(f"model.checkpoint: {uri} cannot be read: {error}") from error
    except OSError:
        # A storage may give a file that it does not describe; loading it will tell.
        return None
    state = fingerprint(info)
    return f"{canonical_uri(uri)} {state}" if " " in state else None
