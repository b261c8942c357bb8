"""The networks of torchvision's detectors, over a backbone of the user's or SSDLite's own."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from cambox.detect import DetectorKind
from cambox.detect.backbone import GROUPS, Backbone
from cambox.errors import RequestError
from cambox.models.hub import TORCHVISION_HUB, answers

# What is kept of an image before anyone asks for less.
LEAST_SCORE, MOST_BOXES = 0.01, 300
RATIOS = (0.5, 1.0, 2.0)
# How many cells of its map an anchor is long, and the sizes of one map beside each other.
CELLS_OF_AN_ANCHOR = {DetectorKind.retinanet: 4, DetectorKind.fasterrcnn: 8}
SIZES = {DetectorKind.retinanet: (1, 2 ** (1 / 3), 2 ** (2 / 3)), DetectorKind.fasterrcnn: (1,)}
# Where there is only one map it has the sizes that else are shared out among several.
SIZES_OF_A_SINGLE_MAP = (1, 2, 4, 8)
SSDLITE_SIDE = 320
# The stage of MobileNetV3 whose middle is SSDLite's first map.
_FIRST_OF_SSDLITE = 13


def build_detector(
    kind: DetectorKind,
    classes: int,
    side: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    backbone: nn.Module,
) -> nn.Module:
    """A detector with a random head.

    In training it takes images at the size that they are wanted at; in use it resizes them.

    Args:
        classes: beside the background.
        side: the longer one, in pixels, of an image as the detector sees it.
        mean, std: of an image's channels, for values in 0..1.
        backbone: a ``Backbone``, or for SSDLite what ``ssdlite_backbone`` gives.
    """
    count = classes + 1
    limits: dict[str, Any] = {"score_thresh": LEAST_SCORE, "detections_per_img": MOST_BOXES}
    fixed_size = None
    if not isinstance(backbone, Backbone):
        detector = _ssdlite(backbone, count, limits)
        fixed_size = (side, side)
    elif kind is DetectorKind.fcos:
        strides = tuple((stride,) for stride in backbone.strides)
        anchors = AnchorGenerator(strides, ((1.0,),) * len(strides))
        detector = FCOS(backbone, count, anchor_generator=anchors, **limits)
        # Behind its last layer is a ReLU, and it begins at 0: a side whose first steps lead below
        # that everywhere has no gradient, stays 0 for ever, and all boxes end at their middle.
        nn.init.ones_(detector.head.regression_head.bbox_reg.bias)
    elif kind is DetectorKind.retinanet:
        anchors = _anchors(kind, backbone.strides)
        (a_cell, *_) = anchors.num_anchors_per_location()
        norm = partial(nn.GroupNorm, GROUPS)
        head = RetinaNetHead(backbone.out_channels, a_cell, count, norm_layer=norm)
        detector = RetinaNet(backbone, count, anchor_generator=anchors, head=head, **limits)
    else:
        # The coarsest map of a pyramid is for proposals alone.
        pool = _region_pooling(backbone.strides[:-1] or backbone.strides)
        detector = FasterRCNN(
            backbone,
            count,
            rpn_anchor_generator=_anchors(kind, backbone.strides),
            box_roi_pool=pool,
            **{f"box_{name}": value for name, value in limits.items()},
        )
    detector.transform = GeneralizedRCNNTransform(
        side,
        side,
        list(mean),
        list(std),
        size_divisible=32 if fixed_size is None else 1,
        fixed_size=fixed_size,
        _skip_resize=fixed_size is None,
    )
    module: nn.Module = detector
    return module


def _region_pooling(strides: list[int]) -> MultiScaleRoIAlign:
    """Faster R-CNN's, for maps of these strides.

    Else it takes the strides from the first batch that it meets, and from small images wrong ones.
    """
    pooling = MultiScaleRoIAlign([str(place) for place in range(len(strides))], 7, 2)
    pooling.scales = [1 / stride for stride in strides]
    levels = [int(math.log2(stride)) for stride in (strides[0], strides[-1])]
    pooling.map_levels = initLevelMapper(
        *levels,
        canonical_scale=pooling.canonical_scale,
        canonical_level=pooling.canonical_level,
    )
    return pooling


def _anchors(kind: DetectorKind, strides: list[int]) -> AnchorGenerator:
    several = SIZES_OF_A_SINGLE_MAP if len(strides) == 1 else (1,)
    sizes = tuple(
        tuple(
            round(stride * CELLS_OF_AN_ANCHOR[kind] * size * more)
            for size in several
            for more in SIZES[kind]
        )
        for stride in strides
    )
    return AnchorGenerator(sizes, (RATIOS,) * len(sizes))


def ssdlite_backbone(pretrained: bool) -> nn.Module:
    """MobileNetV3 as SSDLite reads it.

    Not by torchvision's own builder, which makes another network where it loads no weights.

    Raises:
        RequestError: its weights are wanted and cannot be had.
    """
    weights = MobileNet_V3_Large_Weights.DEFAULT if pretrained else None
    if weights is not None:
        require_weights(weights, "the backbone of ssdlite")
    network = mobilenet_v3_large(weights=weights, norm_layer=_norm())
    backbone: nn.Module = SSDLiteFeatureExtractorMobileNet(
        network.features, _FIRST_OF_SSDLITE, _norm()
    )
    return backbone


def require_weights(weights: Any, whose: str) -> None:
    """See that torchvision's weights are at hand, or its hub.

    Args:
        weights: a member of one of its enums.

    Raises:
        RequestError: they cannot be had.
    """
    file = weights.url.rpartition("/")[2]
    place = Path(torch.hub.get_dir(), "checkpoints")
    if not (place / file).is_file() and not answers(TORCHVISION_HUB):
        raise RequestError(
            f"--backbone: not given, and the weights of {whose} cannot be had "
            f"({TORCHVISION_HUB} does not answer); name a configuration whose classifier is to be "
            f"the backbone of fcos, retinanet or fasterrcnn, or put {file} into {place}"
        )


def _norm() -> Any:
    return partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)


def _ssdlite(backbone: nn.Module, count: int, limits: dict[str, Any]) -> Any:
    size = (SSDLITE_SIDE, SSDLITE_SIDE)
    with torch.inference_mode():
        maps = backbone.eval()(torch.zeros(1, 3, *size)).values()
    anchors = DefaultBoxGenerator([[2, 3]] * len(maps), min_ratio=0.2, max_ratio=0.95)
    per_cell = anchors.num_anchors_per_location()
    head = SSDLiteHead([one.shape[1] for one in maps], per_cell, count, _norm())
    return SSD(backbone, anchors, size, count, head=head, nms_thresh=0.55, **limits)
