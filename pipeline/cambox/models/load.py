"""From a configured model to a classifier: build, prepare, cut and probe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from cambox.config import ModelSettings
from cambox.console import one_line
from cambox.errors import RequestError
from cambox.models.build import build_network
from cambox.models.classifier import Classifier, Precision
from cambox.models.fold import fold_norms
from cambox.models.heads import TOLERANCE, ClassifierHead, HeadKind, score_error
from cambox.models.onednn import pack_convolutions
from cambox.models.preprocessing import (
    Preprocessing,
    fit_to_input_size,
    resolve_preprocessing,
)
from cambox.models.probe import POOLED_KINDS, probe, require_useful
from cambox.models.split import NotPooledError, Split, split_network
from cambox.models.tail import find_tail

NonlinearHead = Literal["auto", "frozen", "derivative"]
CPU = torch.device("cpu")
# Sums of a head whose kind is known may be off so far: more than another machine's rounding makes.
KNOWN_KIND_TOLERANCE = 10 * TOLERANCE
# What networks raise when they cannot run at a size, or as they were built.
DOES_NOT_RUN = (
    *(RuntimeError, AssertionError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, MemoryError),
)


def load_classifier(
    settings: ModelSettings,
    device: torch.device = CPU,
    precision: Precision = "float32",
    nonlinear_head: NonlinearHead = "auto",
    kind: HeadKind | None = None,
    module: nn.Module | None = None,
) -> Classifier:
    """Build, load, cut and probe the configured classifier.

    >>> import numpy as np
    >>> from cambox.config import ModelSettings
    >>> from cambox.models.load import load_classifier
    >>> classifier = load_classifier(ModelSettings(name="test_resnet", input_size=64))
    >>> classifier.head.kind.value, classifier.class_count
    ('affine', 1000)
    >>> scores = classifier.scores(np.zeros((2, 64, 64, 3), dtype=np.uint8))
    >>> scores.feature_map.shape, scores.logits.shape
    (torch.Size([2, 96, 2, 2]), torch.Size([2, 1000]))

    Args:
        settings: the model's name, weights and input; without weights they are random.
        device: where the network runs from then on.
        precision: of the backbone; head and maps are always computed in float32.
        nonlinear_head: which weights a head that is not affine after its pooling gives; ``auto``:
            frozen where holding its norms and gates leaves it affine, else the derivative.
        kind: of the head, where another process has found it, so that rounding on this device
            cannot decide otherwise; None: it is found out.
        module: the network, where it is built already.

    Raises:
        RequestError: it cannot be built, or its head gives no class activation map.
    """
    name = settings.name
    module = build_network(settings) if module is None else module
    if getattr(module, "num_classes", None) == 0:
        raise RequestError(
            f"model.kwargs: {name} has no classifier (num_classes is 0); leave num_classes out, "
            f"or set that of the checkpoint"
        )
    # Before the weights are resampled to another size, which rounds by the machine.
    digest = weights_digest(module)
    preprocessing = resolve_preprocessing(settings, module)
    if settings.input_size is not None:
        fit_to_input_size(module, preprocessing.height, preprocessing.width, name)
    module.to(device)
    with exact_float32():
        try:
            images = probe_images(preprocessing, device)
            with torch.inference_mode():
                logits = module(images)
        except DOES_NOT_RUN as error:
            raise RequestError(
                f"model.input_size: {name} does not run at {preprocessing.height} x "
                f"{preprocessing.width}: {one_line(error, 200)}; leave input_size null, or tell "
                f"the constructor: model.kwargs={{img_size: ...}}"
            ) from error
        require_useful(logits, name)
        fold_norms(module, images, logits)
        split, head = head_of(module, images, logits, name, nonlinear_head, kind)
        if logits.shape[1] == 1 and settings.activation == "softmax":
            raise RequestError(
                f"model.activation: {name} gives one number an image, of which softmax is always "
                f"1; set sigmoid for a single class"
            )
        if device.type == "cpu":
            # Not before the head is known, which reads a convolution and its activation apart.
            pack_convolutions(module, images, logits)
    return Classifier(
        module=module,
        split=split,
        head=head,
        class_count=logits.shape[1],
        preprocessing=preprocessing,
        device=device,
        precision=precision,
        weights_digest=digest,
    )


def head_of(
    module: nn.Module,
    images: torch.Tensor,
    logits: torch.Tensor,
    name: str,
    nonlinear_head: NonlinearHead,
    kind: HeadKind | None,
) -> tuple[Split | None, ClassifierHead]:
    """The network as features and a head over their average, or else with an affine tail.

    Raises:
        RequestError: it is neither, or not of the given kind.
    """
    kinds = [pooled for pooled in POOLED_KINDS if kind in (None, pooled)]
    if nonlinear_head != "auto" and kind is None:
        kinds = [HeadKind.affine, HeadKind(nonlinear_head)]
    reason = "has another kind of head"
    if kinds:
        try:
            split = split_network(module)
            with torch.inference_mode():
                halves = split.head(split.backbone(images))
                if halves.shape != logits.shape or score_error(halves, logits) > TOLERANCE:
                    raise NotPooledError("does more than its forward_features and forward_head")
                tolerance = TOLERANCE if kind is None else KNOWN_KIND_TOLERANCE
                return split, probe(split, images, name, kinds, tolerance)
        except NotPooledError as error:
            reason = str(error)
    head = find_tail(module, images)
    if head is None:
        raise RequestError(
            f"model.name: {name} {reason}, and none of its modules begins a part that is affine "
            f"in a grid of cells, so it gives no class activation map"
        )
    if kind not in (None, head.kind):
        raise RequestError(
            f"model.name: the head of {name} is of kind {head.kind} on this machine and {kind} on "
            f"another; give both the same versions of torch and timm"
        )
    return None, head


def with_class_size(classifier: Classifier, size: int | tuple[int, int], name: str) -> Classifier:
    """The classifier, whose logits then come from a second pass at another size.

    Args:
        name: of the model, for the error.

    Raises:
        RequestError: the network does not run at that size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    sized = replace(classifier, class_size=(height, width))
    own = classifier.preprocessing
    try:
        sized.try_out()
    except DOES_NOT_RUN as error:
        raise RequestError(
            f"model.class_input_size: {name}, built for {own.height} x {own.width}, does not run "
            f"at {height} x {width}: {one_line(error, 200)}; leave it null"
        ) from error
    return sized


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let GPUs compute float32 in full, whatever was set; TF32 rounds above what probing compares.

    Within it ``allow_tf32``, the older name of these settings, cannot be asked.
    """
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def probe_images(preprocessing: Preprocessing, device: torch.device) -> torch.Tensor:
    """Two noise images of different grain, so that the features differ between cells."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = preprocessing.channels, preprocessing.height, preprocessing.width
    fine = torch.randn(1, channels, height, width, generator=generator)
    coarse = F.interpolate(
        torch.randn(1, channels, 7, 7, generator=generator), size=fine.shape[2:], mode="bilinear"
    )
    return torch.cat([fine, coarse]).to(device)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
