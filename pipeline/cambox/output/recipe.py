"""The recipe: all that shapes the rows of a shard, and nothing else.

Batch size, workers and engine are left out on purpose: they change no row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision

from cambox.config import Config
from cambox.errors import RequestError
from cambox.models.classifier import Classifier

SCHEMA_VERSION = 1
IMAGENET_CLASS_COUNT = 1000


@dataclass(frozen=True)
class Recipe:
    """The resolved settings that shape the rows.

    Attributes:
        settings: as JSON, keys sorted.
        class_names: one for each class of the model.
        digest: SHA-256 of settings and class names, in hexadecimal.
    """

    settings: str
    class_names: tuple[str, ...]
    digest: str

    @property
    def folder(self) -> str:
        """The name of the folder that holds this recipe's files."""
        return folder_name(self.digest)


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
        "input": {"labels": config.input.labels, "max_pixels": config.input.max_pixels},
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
        "cam": config.cam.model_dump() | {"nonlinear_head": str(classifier.head.kind)},
        "boxes": config.boxes.model_dump(),
        "output": {"store_maps": config.output.store_maps},
    }
    text = json.dumps(settings, sort_keys=True)
    names = _class_names(config.model.class_names, classifier.class_count)
    return Recipe(text, names, recipe_digest(text, names))


def folder_name(digest: str) -> str:
    """The name of the folder that holds the files of a recipe with this digest."""
    return digest[:16]


def recipe_digest(settings: str, class_names: Sequence[str]) -> str:
    """SHA-256 of a recipe's settings (JSON) and class names, in hexadecimal."""
    return hashlib.sha256("\n".join([settings, *class_names]).encode()).hexdigest()


def _class_names(path: str | None, class_count: int) -> tuple[str, ...]:
    if path is None:
        if class_count == IMAGENET_CLASS_COUNT:
            weights = torchvision.models.ResNet18_Weights.DEFAULT
            return tuple(weights.meta["categories"])
        return tuple(str(index) for index in range(class_count))
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"model.class_names: {path} cannot be read: {error}") from error
    if len(names) != class_count:
        raise RequestError(
            f"model.class_names: {path} has {len(names)} names, one a line; the model has "
            f"{class_count} classes"
        )
    return tuple(names)
