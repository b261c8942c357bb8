"""``cam`` and its helper with the signatures of the paper's code.

The pipeline itself uses ``class_score_maps``, which never computes the maps of all classes.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from cambox.cams.pooling import ThresholdedAvgPool2d
from cambox.cams.score_maps import Shift


class PaperModel(Protocol):
    """What ``cam`` asks of a model: ``forward`` leaves ``pred`` and ``feature_map`` behind."""

    pred: torch.Tensor
    feature_map: torch.Tensor
    last_layer: str
    fc: nn.Linear
    conv: nn.Conv2d
    avgpool: ThresholdedAvgPool2d

    def forward(self, images: torch.Tensor) -> object: ...


def cam(
    model: PaperModel,
    cam_topk: int = 1,
    images: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    truncate: bool = False,
    shift: Shift = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The map of the ``cam_topk``-th predicted class, or of the given labels.

    Args:
        model: see ``PaperModel``; ``last_layer`` is ``'fc'`` or ``'conv'``.
        cam_topk: rank of the class, from 1.
        images: (B, 3, H, W), run through the model first; None: use what its last forward left.
        labels: (B,) or (B, 1) class indices; None: the predicted class of that rank.
        truncate: clamp negative class weights to zero (NWC).
        shift: see ``class_weights``.

    Returns:
        cams (B, 1, h, w) at the feature map's size, and the classes (B,).

    Raises:
        ValueError: ``cam_topk`` or ``last_layer`` is not usable.
    """
    if images is not None:
        model.forward(images)
    if labels is None:
        classes = model.pred.shape[1]
        if not 1 <= cam_topk <= classes:
            raise ValueError(f"cam_topk must be from 1 to the {classes} classes, got {cam_topk}")
        labels = model.pred.topk(cam_topk, dim=1).indices[:, cam_topk - 1]
    # The paper's code squeezes, which loses the batch axis of a batch of one.
    labels = labels.reshape(-1)
    if model.last_layer not in ("fc", "conv"):
        raise ValueError(f"last_layer must be 'fc' or 'conv', got {model.last_layer!r}")
    layer = model.fc if model.last_layer == "fc" else model.conv
    _, score_map = model.avgpool(model.feature_map, layer, truncate=truncate, shift=shift)
    return batched_index_select(score_map, 1, labels), labels


def batched_index_select(input: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    """Select, for each item of a batch, its own indices along one dimension.

    Args:
        input: (B, ...).
        dim: the dimension to select from, 1 or more.
        index: (B,) or (B, n) indices into that dimension.

    Returns:
        As ``input``, with length n (1 for (B,)) along ``dim``.

    Raises:
        ValueError: the index is not of the batch.
    """
    if not 1 <= dim < input.ndim or index.shape[:1] != input.shape[:1]:
        raise ValueError(
            f"expected dim from 1 to {input.ndim - 1} and {input.shape[0]} rows of indices, "
            f"got dim {dim} and an index of shape {tuple(index.shape)}"
        )
    index = index.reshape(index.shape[0], -1)
    shape = [input.shape[0], *(1 for _ in input.shape[1:])]
    shape[dim] = index.shape[1]
    expanded = list(input.shape)
    expanded[dim] = index.shape[1]
    return torch.gather(input, dim, index.view(shape).expand(expanded))
