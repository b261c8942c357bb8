"""From the configuration and the loaded classifier to the recipe that shapes the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cambox.config import Config
from cambox.errors import RequestError
from cambox.output.footer import SCHEMA_VERSION, Recipe, recipe_digest

if TYPE_CHECKING:
    from cambox.models.classifier import Classifier

IMAGENET_CLASS_COUNT = 1000


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


def _class_names(path: str | None, class_count: int) -> tuple[str, ...]:
    if path is None:
        if class_count == IMAGENET_CLASS_COUNT:
            # Late: only a run that has loaded a model comes here.
            import torchvision

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
