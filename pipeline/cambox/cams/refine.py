"""Better maps: spread along what looks alike in the middle layers, and weighed to the middle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cambox.cams.kernel import CONSTANT_TOLERANCE


def affinity(
    features: Sequence[torch.Tensor],
    size: tuple[int, int],
    power: float = 2.0,
    feature_power: float = 1.0,
    channels: int | None = None,
) -> torch.Tensor:
    """How alike the cells of an image are, by the features of middle layers.

    Of each layer the spatial mean is taken off, each value x becomes sign(x) |x| ** feature_power,
    and the map is resized to ``size``; the cosines between cells, averaged over the layers,
    negative ones zero, are raised to ``power``, and rows add up to one.

    The products of all pairs of cells are nearly all of the cost, and grow with the channels.

    Args:
        features: of each layer (B, C, H, W); C, H and W may differ.
        size: (height, width) of the grid to compare on.
        power: above zero; more makes cells that are only somewhat alike count less.
        feature_power: above zero; below 1 a few strong channels no longer drown the others (power
            normalisation: Perronnin, Sanchez, Mensink, ECCV 2010).
        channels: of a layer with more, every k-th channel is taken, the smallest k that leaves at
            most so many; None: all are.

    Returns:
        (B, N, N) float32, N = height x width; row i says what cell i takes from each cell.

    Raises:
        ValueError: there is no layer, or one is not (B, C, H, W).
    """
    if not features:
        raise ValueError("expected the features of at least one layer, got none")
    directions = []
    for layer in features:
        if layer.ndim != 4:
            raise ValueError(f"expected features of shape (B, C, H, W), got {tuple(layer.shape)}")
        taken = layer if channels is None else layer[:, :: -(-layer.shape[1] // channels)]
        # With the channels of a cell side by side all that follows runs over contiguous memory.
        taken = taken.contiguous(memory_format=torch.channels_last).float()
        centred = taken - taken.mean(dim=(2, 3), keepdim=True)
        if feature_power != 1.0:
            centred = torch.copysign(centred.abs().pow_(feature_power), centred)
        resized = centred
        if centred.shape[2:] != size:
            resized = F.interpolate(centred, size=size, mode="bilinear", align_corners=False)
        directions.append(F.normalize(resized.permute(0, 2, 3, 1).flatten(1, 2), dim=2))
    # The product of the stacked unit vectors is the sum of the layers' cosines.
    cells = torch.cat(directions, dim=2).div_(len(features) ** 0.5)
    weight = torch.bmm(cells, cells.transpose(1, 2)).clamp_(min=0).pow_(power)
    return weight.div_(weight.sum(dim=2, keepdim=True))


def propagate(maps: torch.Tensor, affinity: torch.Tensor, steps: int = 1) -> torch.Tensor:
    """Multiply maps by the affinity, so that what looks alike gets alike scores.

    Args:
        maps: (B, n, h, w), of the grid that the affinity was made on.
        affinity: (B, h x w, h x w), see ``affinity``.
        steps: how often.

    Returns:
        (B, n, h, w).

    Raises:
        ValueError: maps and affinity are of different grids.
    """
    batch, _, height, width = maps.shape
    if affinity.shape != (batch, height * width, height * width):
        raise ValueError(
            f"expected an affinity of shape ({batch}, {height * width}, {height * width}) for maps "
            f"of shape {tuple(maps.shape)}, got {tuple(affinity.shape)}"
        )
    cells = maps.flatten(2)
    for _ in range(steps):
        cells = torch.bmm(cells, affinity.transpose(1, 2))
    return cells.view_as(maps)


def centre_weight(size: tuple[int, int], spread: float) -> torch.Tensor:
    """A Gaussian around the middle of the image, 1 at its peak: photographs are aimed at objects.

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
