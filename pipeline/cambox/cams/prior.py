"""What is known of where objects are before looking: photographs are aimed at them."""

from __future__ import annotations

import torch

from cambox.cams.kernel import CONSTANT_TOLERANCE


def centre_weight(size: tuple[int, int], spread: float) -> torch.Tensor:
    """A Gaussian around the middle of the image, 1 at its peak.

    Args:
        size: (height, width) in cells.
        spread: standard deviation as a share of the image's side, above zero.

    Returns:
        (height, width) float32, taken at the cells' middles.
    """
    down, across = (((torch.arange(cells) + 0.5) / cells - 0.5) / spread for cells in size)
    return torch.exp(-(down[:, None] ** 2 + across[None, :] ** 2) / 2)


def towards_centre(maps: torch.Tensor, spread: float) -> torch.Tensor:
    """Min-max normalise maps and weigh them by ``centre_weight``.

    Normalised first, because a weight below one would raise negative scores.

    Args:
        maps: (B, n, h, w), any range.
        spread: see ``centre_weight``.

    Returns:
        (B, n, h, w), 0 to 1; a constant map stays constant, so that it still gives no box.
    """
    low = maps.amin(dim=(2, 3), keepdim=True)
    high = maps.amax(dim=(2, 3), keepdim=True)
    varies = high - low > CONSTANT_TOLERANCE * torch.maximum(low.abs(), high.abs())
    weight = centre_weight((maps.shape[2], maps.shape[3]), spread).to(maps.device)
    return torch.where(varies, (maps - low) / (high - low) * weight, maps)
