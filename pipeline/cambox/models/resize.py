"""A network that was built for one input size, made to take another."""

from __future__ import annotations

import torch
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cambox.errors import RequestError
from cambox.models.build import Network


def fit_to_input_size(network: Network, height: int, width: int, name: str) -> None:
    """Resample a network's position encodings and set its windows, in place, where it has them.

    Convolutional networks take any size as they are, and stay so.

    Raises:
        RequestError: the network cannot take the size.
    """
    module = network.module
    try:
        if network.library == "timm":
            resize = getattr(module, "set_input_size", None)
            if callable(resize):
                _require_whole_patches(module, height, width)
                resize(img_size=(height, width))
        elif isinstance(module, VisionTransformer) and module.image_size != height:
            _resample(module, height, width)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"model.input_size: {name} cannot take {height} x {width}: "
            f"{' '.join(str(error).split())[:200] or 'its grid does not fit'}; take a multiple of "
            f"its patch (and window) size"
        ) from error


def _require_whole_patches(module: torch.nn.Module, height: int, width: int) -> None:
    """What is left over of the last patch would be cut off, and boxes would be misplaced."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
        raise ValueError(f"its patches are {patch[0]} x {patch[1]} pixels")


def _resample(module: VisionTransformer, height: int, width: int) -> None:
    if height != width or height % module.patch_size:
        raise ValueError(f"it takes squares of a multiple of {module.patch_size} pixels")
    state = interpolate_embeddings(height, module.patch_size, module.state_dict())
    # Nothing else in the network depends on the size.
    module.image_size = height
    module.seq_length = (height // module.patch_size) ** 2 + 1
    module.encoder.pos_embedding = torch.nn.Parameter(
        state["encoder.pos_embedding"], requires_grad=False
    )
