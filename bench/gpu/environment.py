"""What the machine has, whether all of the project can be imported, and what became of networks."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import sys
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from bench.common import packed
from bench.gpu.files import DRY, PHOTOS, WORK
from bench.gpu.step import MOBILENET, RESNET, SWIN, Step, annotate, on_gpu, own_config
from cambox.config import ModelSettings
from cambox.engines.local import LocalEngine
from cambox.engines.worker import local_device
from cambox.models.build import build_network
from cambox.models.load import load_classifier
from cambox.output.footer import library_versions

PACKAGES = ("cambox", "jobs", "bench", "pytorch_grad_cam", "torchcam.methods")


def environment() -> None:
    """Versions, every import, and whether norms were folded on this device."""
    step = Step("environment")
    step.part("versions", versions)
    step.part("imports", imports)
    for name in (RESNET,) if DRY else (RESNET, SWIN, MOBILENET):
        step.part(name, network_facts, name)


def first() -> None:
    """A run of a few photographs, which compiles the boxes."""
    folder = WORK / "first"
    folder.mkdir()
    for path in sorted(PHOTOS.iterdir())[:12]:
        os.link(path, folder / path.name)
    # Not the timed batch size, which would be remembered: other steps' work runs beside this.
    config = own_config(packed(folder, folder / "shards"), RESNET, engine={"batch_size": 4})
    rows = Step("first-run")
    rows.part("rows", lambda: sum(report.samples for report in annotate(LocalEngine(config))))


def versions() -> dict[str, Any]:
    told: dict[str, Any] = dict(library_versions())
    told |= {"python": sys.version.split()[0], "cv2": cv2.__version__, "cuda": torch.version.cuda}
    told["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    told["cpus"] = len(os.sched_getaffinity(0))
    if on_gpu():
        traits = torch.cuda.get_device_properties(0)
        told |= {"gpu": traits.name, "gpu memory": traits.total_memory}
    installed = {entry.metadata["Name"].lower() for entry in importlib.metadata.distributions()}
    for name in ("numba", "typer", "pydantic", "ray", "webdataset", "scikit-learn"):
        told[name] = importlib.metadata.version(name) if name in installed else None
    return told


def imports() -> dict[str, Any]:
    """How many modules there are, and which fail, by name."""
    names = list(PACKAGES)
    for package in PACKAGES[:3]:
        path = importlib.import_module(package).__path__
        names += [found.name for found in pkgutil.walk_packages(path, f"{package}.")]
    failed = {}
    for name in names:
        if not name.endswith("__main__"):
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is what was found)
                failed[name] = f"{type(error).__name__}: {error}"
    return {"modules": len(names), "failed": failed}


def network_facts(name: str) -> dict[str, Any]:
    """How many norms were not folded on this device, and how near the logits stayed."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    settings = ModelSettings(name=name)
    torch.manual_seed(0)
    plain = build_network(settings).to(local_device())
    torch.manual_seed(0)
    classifier = load_classifier(settings, local_device(), "float32")
    size = classifier.preprocessing
    pixels = np.random.default_rng(0).integers(
        0, 256, (2, size.height, size.width, 3), dtype=np.uint8
    )
    images = classifier.normalised(pixels)
    with torch.inference_mode():
        before, after = plain(images), classifier.module(images)
    return {
        "norms left": sum(isinstance(m, nn.BatchNorm2d) for m in classifier.module.modules()),
        "logits moved, of their spread": float(
            (after - before).abs().max() / (before.max() - before.min())
        ),
        "head": f"{type(classifier.head).__name__} {classifier.head.kind}",
    }
