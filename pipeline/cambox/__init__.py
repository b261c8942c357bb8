"""cambox: turn image classification datasets into detector training data, without gradients.

All of it once, in an empty folder, on pictures that are made here:

>>> from pathlib import Path
>>> import cambox
>>> from cambox.demo import make_data
>>> make_data(Path("demo"), pictures=4)

Boxes for the shards that a configuration names, and the rows that come out:

>>> config = cambox.load_config("demo")             # a file, or a recipe's name
>>> summary = cambox.annotate(config)               # a Config, or what load_config takes
>>> summary.complete, summary.samples
(True, 4)
>>> rows = cambox.read("demo/boxes").to_table(columns=["key", "status", "objects"])
>>> rows["status"].to_pylist()
['ok', 'ok', 'ok', 'ok']
>>> try:
...     cambox.annotate(cambox.load_config("demo", ["input.shards=[nowhere.tar]"]))
... except cambox.RequestError as error:
...     print(error)
input.shards: 'nowhere.tar' does not exist; correct it or restore the file

One picture again, by its key, and its boxes drawn on it, also over one of its stored maps:

>>> sample = cambox.find_sample("demo/boxes", rows["key"][0].as_py())
>>> sample.image.dtype, sample.row["status"]
(dtype('uint8'), 'ok')
>>> cambox.draw(sample.image, sample.row["objects"]).shape == sample.image.shape
True

A detector's training, in any order or as a stream:

>>> dataset = cambox.BoxDataset("demo/boxes")
>>> image, target = dataset[0]
>>> image.dtype, image.ndim, sorted(target)
(torch.uint8, 3, ['boxes', 'image_id', 'key', 'labels', 'scores'])
>>> sum(1 for image, target in cambox.BoxStream("demo/boxes")) == len(dataset)
True

A classifier with its head taken apart, and the method with the paper's own signatures:

>>> import numpy as np
>>> import torch
>>> classifier = cambox.load_classifier(config.model)
>>> features = classifier.scores(np.zeros((2, 128, 128, 3), np.uint8)).feature_map
>>> layer = torch.nn.Linear(features.shape[1], 8).requires_grad_(False)
>>> pool = cambox.ThresholdedAvgPool2d(threshold=0.1)
>>> pred, score_map = pool(features, layer, truncate=True)
>>> pred.shape, score_map.shape
(torch.Size([2, 8]), torch.Size([2, 8, 16, 16]))
>>> from types import SimpleNamespace
>>> model = SimpleNamespace(
...     pred=pred, feature_map=features, last_layer="fc", fc=layer, avgpool=pool
... )
>>> cams, classes = cambox.cam(model, cam_topk=1, truncate=True)
>>> cams.equal(cambox.batched_index_select(score_map, 1, classes))
True

Each name is imported when it is first used: ``import cambox`` brings neither torch nor pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cambox.cams.paper import ThresholdedAvgPool2d, batched_index_select, cam
    from cambox.config import Config
    from cambox.config_file import load_config
    from cambox.errors import RequestError
    from cambox.models.load import load_classifier
    from cambox.output.dataset import read
    from cambox.review.draw import draw
    from cambox.review.show.find import find_sample
    from cambox.run import annotate
    from cambox.training.dataset import BoxDataset
    from cambox.training.stream import BoxStream

__version__ = "0.2.0"

__all__ = [
    "BoxDataset",
    "BoxStream",
    "Config",
    "RequestError",
    "ThresholdedAvgPool2d",
    "__version__",
    "annotate",
    "batched_index_select",
    "cam",
    "draw",
    "find_sample",
    "load_classifier",
    "load_config",
    "read",
]

_HOMES = {
    "BoxDataset": "cambox.training.dataset",
    "BoxStream": "cambox.training.stream",
    "Config": "cambox.config",
    "RequestError": "cambox.errors",
    "ThresholdedAvgPool2d": "cambox.cams.paper",
    "annotate": "cambox.run",
    "batched_index_select": "cambox.cams.paper",
    "cam": "cambox.cams.paper",
    "draw": "cambox.review.draw",
    "find_sample": "cambox.review.show.find",
    "load_classifier": "cambox.models.load",
    "load_config": "cambox.config_file",
    "read": "cambox.output.dataset",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cambox' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
