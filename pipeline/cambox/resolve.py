"""From the configuration and the loaded classifier to the recipe that shapes the rows.

A recipe is known once the model is loaded, which takes seconds. The recipes of earlier runs are
kept in the user's cache, so that ``cambox plan`` need not load it again to say that all is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from cambox.config import Config
from cambox.errors import RequestError
from cambox.output.footer import SCHEMA_VERSION, Recipe, library_versions, recipe_digest
from cambox.output.publish import publish_bytes
from cambox.sources.retry import from_storage
from cambox.sources.storage import canonical_uri, fingerprint, locate
from cambox.threads import usable_cpus

if TYPE_CHECKING:
    from cambox.models.classifier import Classifier

IMAGENET_CLASS_COUNT = 1000
RECIPES_KEPT = 200
# All but these settings, and two files whose contents count.
_SHAPE_NO_ROW: dict[str, set[str]] = {
    "input": {"shards", "images", "fingerprint", "max_sample_bytes", "storage_options"},
    "model": {"checkpoint", "class_names", "class_groups"},
    "output": {"uri", "storage_options"},
    "engine": {"batch_size", "max_attempts", "stall_seconds"},
}


def resolve_recipe(config: Config, classifier: Classifier) -> Recipe:
    """Resolve every ``null`` and ``auto`` that shapes rows, with the weights' digest.

    Raises:
        RequestError: the class names do not fit the model, or ``top_k`` exceeds its classes.
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
        ),
        "model": {
            "name": config.model.name,
            "kwargs": config.model.kwargs,
            "weights": classifier.weights_digest,
            "input_size": [preprocessing.height, preprocessing.width],
            "class_input_size": list(classifier.class_size) if classifier.class_size else None,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "precision": classifier.precision,
            "activation": config.model.activation,
        },
        # Zooming and groups only where they are asked for: other recipes stay what they were.
        "cam": config.cam.model_dump(exclude={"zoom"} if config.cam.zoom is None else None)
        | {"nonlinear_head": str(classifier.head.kind)},
        "boxes": config.boxes.model_dump(),
        "output": {"store_maps": config.output.store_maps},
    }
    groups = classifier.groups
    if groups is None:
        names = class_names(config.model.class_names, classifier.class_count)
    else:
        names = groups.names
        settings["model"]["class_groups"] = dict(zip(names, groups.members, strict=True))
    text = json.dumps(settings, sort_keys=True)
    return Recipe(text, names, recipe_digest(text, names))


def class_names(path: str | None, class_count: int) -> tuple[str, ...]:
    """The names of a model's classes, from a file, ImageNet's, or their numbers.

    Raises:
        RequestError: the file cannot be read, or has another number of names.
    """
    if path is None:
        if class_count == IMAGENET_CLASS_COUNT:
            # Late: only a run that has loaded a model comes here.
            import torchvision

            weights = torchvision.models.ResNet18_Weights.DEFAULT
            return tuple(weights.meta["categories"])
        return tuple(str(index) for index in range(class_count))
    names = _read("model.class_names", path).splitlines()
    if len(names) != class_count:
        raise RequestError(
            f"model.class_names: {path} has {len(names)} names, one a line; the model has "
            f"{class_count} classes"
        )
    return tuple(names)


def _read(setting: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{setting}: {path} cannot be read: {error}") from error


def recipe_key(config: Config) -> str | None:
    """All that a recipe depends on, as far as it is known without loading the model.

    Weights of a hub count as those that the libraries' versions name.

    Returns:
        None where the checkpoint's storage does not say whether it has changed.

    Raises:
        RequestError: the checkpoint, or a file of class names or groups, is not there.
    """
    model = config.model
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
