"""A detector and what describes it: made anew, written to a folder, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn
from torchvision.models import ResNet50_Weights

from cambox import __version__
from cambox.config import ModelSettings
from cambox.console import one_line, write_files
from cambox.detect import ABOUT_FILE, DetectorKind
from cambox.detect.backbone import make_backbone
from cambox.detect.build import SSDLITE_SIDE, build_detector, require_weights, ssdlite_backbone
from cambox.errors import RequestError
from cambox.models.build import build_network
from cambox.models.preprocessing import resolve_preprocessing

WEIGHTS_FILE = "detector.safetensors"
DEFAULT_BACKBONE = ModelSettings(name="torchvision/resnet50", pretrained=True)
# As SSDLite was made for.
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Description:
    """What a detector's network is built from, but for its weights.

    Attributes:
        class_ids, class_names: of the recipe; label i + 1 is the i-th.
        side: the longer one, in pixels, that an image is resized to; SSDLite squashes it to a
            square.
        mean, std: of an image's channels, for values in 0..1.
        backbone: the name of a network and its constructor's arguments; None: SSDLite's own.
    """

    kind: DetectorKind
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    backbone: Mapping[str, Any] | None

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Description:
        """The same from what JSON made of it.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        listed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**listed | {"kind": DetectorKind(listed["kind"])})

    def build(self, backbone: nn.Module) -> nn.Module:
        """The network over a backbone."""
        classes = len(self.class_ids)
        return build_detector(self.kind, classes, self.side, self.mean, self.std, backbone)


def new_detector(
    kind: DetectorKind,
    class_ids: tuple[int, ...],
    class_names: tuple[str, ...],
    side: int,
    settings: ModelSettings | None,
) -> tuple[nn.Module, Description]:
    """A detector whose backbone knows pictures and whose head is random.

    Args:
        settings: of the classifier whose network is its backbone; None: torchvision's ResNet-50
            with the weights of its hub. SSDLite has its own MobileNetV3 with these.

    Raises:
        RequestError: the network or its weights cannot be had, or it gives no feature maps.
    """
    if kind is DetectorKind.ssdlite:
        description = Description(
            kind, class_ids, class_names, SSDLITE_SIDE, _HALF, _HALF, backbone=None
        )
        return description.build(ssdlite_backbone(pretrained=True)), description
    if settings is None:
        require_weights(ResNet50_Weights.DEFAULT, "torchvision's ResNet-50")
    given = settings or DEFAULT_BACKBONE
    module = build_network(given)
    normal = resolve_preprocessing(given, module)
    named = {"name": given.name, "kwargs": given.kwargs}
    description = Description(
        kind, class_ids, class_names, side, normal.mean, normal.std, backbone=named
    )
    return description.build(make_backbone(module, given, kind)), description


def save_detector(
    detector: nn.Module, description: Description, about: Mapping[str, Any], folder: Path
) -> None:
    """Write weights and description into a folder, each file whole or not at all.

    Args:
        about: what else there is to know: where the boxes came from, and how good it is.

    Raises:
        RequestError: the folder cannot be written.
    """
    weights = {name: value.contiguous().cpu() for name, value in detector.state_dict().items()}
    document = {"cambox": __version__, "detector": asdict(description), **about}
    # The description last, because it says that all is there.
    write_files(
        folder,
        {
            WEIGHTS_FILE: safetensors.torch.save(weights),
            ABOUT_FILE: json.dumps(document, indent=1).encode() + b"\n",
        },
    )


def load_detector(folder: Path, device: torch.device) -> tuple[nn.Module, Description]:
    """The detector of a folder, ready to be used.

    Raises:
        RequestError: there is none, or it does not fit its description.
    """
    try:
        document = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))["detector"]
        description = Description.of_json(document)
        weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        safetensors.SafetensorError,
    ) as error:
        raise RequestError(
            f"{folder}: no detector of cambox ({one_line(error, 150)}); name the folder that "
            "cambox detect train wrote"
        ) from error
    if description.backbone is None:
        detector = description.build(ssdlite_backbone(pretrained=False))
    else:
        settings = ModelSettings(**description.backbone)
        backbone = make_backbone(build_network(settings), settings, description.kind)
        detector = description.build(backbone)
    try:
        detector.load_state_dict(weights)
    except RuntimeError as error:
        raise RequestError(
            f"{folder}: {WEIGHTS_FILE} is not of the detector that {ABOUT_FILE} describes "
            f"({one_line(error, 150)}); train it again"
        ) from error
    return detector.eval().requires_grad_(False).to(device), description
