"""Propagation along affinity, against the formula written out cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cambox.cams.refine import affinity, propagate


@pytest.mark.parametrize(
    ("feature_power", "channels", "strides"),
    [(1.0, None, (1, 1)), (0.5, 7, (1, 1)), (0.3, 5, (1, 2)), (0.5, 2, (3, 4))],
)
def test_the_affinity_is_the_formula(
    feature_power: float, channels: int | None, strides: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layers = [torch.randn(2, 5, 3, 4), torch.randn(2, 7, 3, 4)]
    result = affinity(layers, (3, 4), 2.0, feature_power, channels).numpy()
    layers = [layer[:, ::stride] for layer, stride in zip(layers, strides, strict=True)]
    for image in range(2):
        mean_cosine = np.zeros((12, 12))
        for layer in layers:
            cells = layer[image].reshape(len(layer[image]), 12).T.numpy()
            cells = cells - cells.mean(axis=0)
            cells = np.where(cells < 0, -1, 1) * np.power(np.abs(cells), feature_power)
            for i in range(12):
                for j in range(12):
                    lengths = np.linalg.norm(cells[i]) * np.linalg.norm(cells[j])
                    mean_cosine[i, j] += cells[i] @ cells[j] / lengths / 2
        weight = np.maximum(mean_cosine, 0) ** 2
        expected = weight / weight.sum(axis=1, keepdims=True)
        assert np.allclose(result[image], expected, atol=1e-5)


def test_a_step_spreads_scores_over_what_looks_alike() -> None:
    features = torch.zeros(1, 2, 2, 4)
    features[0, 0, :, :2] = 1.0  # a left half
    features[0, 1, :, 2:] = 1.0  # and a right half
    maps = torch.zeros(1, 1, 2, 4)
    maps[0, 0, 0, 0] = 1.0
    spread = propagate(maps, affinity([features], (2, 4)))[0, 0]
    assert torch.allclose(spread[:, :2], torch.full((2, 2), 0.25), atol=1e-6)
    assert torch.allclose(spread[:, 2:], torch.zeros(2, 2), atol=1e-6)
    constant = torch.full((1, 3, 2, 4), 0.7)
    again = propagate(constant, affinity([torch.randn(1, 6, 2, 4)], (2, 4)), steps=3)
    assert torch.allclose(again, constant, atol=1e-5)


def test_layers_are_compared_on_one_grid() -> None:
    layers = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    rows = affinity(layers, (4, 4))
    assert rows.shape == (1, 16, 16)
    assert torch.allclose(rows.sum(dim=2), torch.ones(1, 16))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        affinity([], (2, 2))
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(2, 3\)"):
        affinity([torch.zeros(2, 3)], (2, 2))
    with pytest.raises(ValueError, match=r"\(1, 6, 6\).*\(1, 4, 4\)"):
        propagate(torch.zeros(1, 1, 2, 3), torch.zeros(1, 4, 4))
