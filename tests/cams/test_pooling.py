"""Thresholded pooling and the paper's functions against the formula written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cambox.cams import ThresholdedAvgPool2d, batched_index_select, cam
from cambox.cams.paper import thresholded_average


def pooled_in_numpy(features: np.ndarray, threshold: float) -> np.ndarray:
    """Per image and channel, the mean of the cells above threshold x maximum (paper, 3.1)."""
    batch, channels, _, _ = features.shape
    pooled = np.zeros((batch, channels))
    for image in range(batch):
        for channel in range(channels):
            cells = features[image, channel].ravel()
            kept = cells[cells > threshold * cells.max()]
            positive = max(int((kept > 0).sum()), 1)
            pooled[image, channel] = kept[kept > 0].sum() / positive
    return pooled


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, nn.Linear | nn.Conv2d, float, bool, bool]:
    batch, channels, height, width, classes = (draw(st.integers(1, 5)) for _ in range(5))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    features = torch.randn(batch, channels, height, width)
    if draw(st.booleans()):
        features[:, 0] = -features[:, 0].abs() - 0.1
    has_bias = draw(st.booleans())
    layer: nn.Linear | nn.Conv2d
    if draw(st.booleans()):
        layer = nn.Linear(channels, classes, bias=has_bias)
    else:
        layer = nn.Conv2d(channels, classes, 1, bias=has_bias)
    return features, layer, draw(st.sampled_from([0.0, 0.1, 0.5])), draw(st.booleans()), has_bias


@given(problems(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_pooling_and_maps_follow_the_formula(
    problem: tuple[torch.Tensor, nn.Linear | nn.Conv2d, float, bool, bool], add_bias: bool
) -> None:
    features, layer, threshold, truncate, has_bias = problem
    with torch.inference_mode():
        pred, score_map = ThresholdedAvgPool2d(threshold)(
            features, layer, truncate=truncate, bias=add_bias
        )
    weight = layer.weight.detach().numpy().reshape(layer.weight.shape[:2]).astype(np.float64)
    if truncate:
        weight = np.where(weight > 0, weight, 0)
    values = features.numpy().astype(np.float64)
    expected = pooled_in_numpy(values, threshold) @ weight.T
    if add_bias and has_bias:
        expected = expected + layer.bias.detach().numpy()
    assert pred.numpy() == pytest.approx(expected, abs=1e-5)
    maps = np.einsum("kc,bchw->bkhw", weight, values)
    assert score_map.numpy() == pytest.approx(maps, abs=1e-5)


def test_a_channel_without_a_positive_cell_pools_to_zero() -> None:
    features = torch.tensor([[[[-3.0, -1.0]], [[2.0, -5.0]]]])
    assert thresholded_average(features, 0.0).tolist() == [[0.0, 2.0]]


def test_the_shift_is_added_before_the_weights_are_clamped() -> None:
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data = torch.tensor([[-1.0], [-3.0]])
    _, score_map = ThresholdedAvgPool2d()(torch.ones(1, 1, 1, 1), layer, truncate=True, shift=2.0)
    assert score_map.flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(3, 2, 3), "1x1"),
        (nn.Linear(4, 2), r"\(B, 4, H, W\).*\(1, 3, 2, 2\)"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_with_both_shapes(
    layer: nn.Linear | nn.Conv2d, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ThresholdedAvgPool2d()(torch.ones(1, 3, 2, 2), layer)


class PaperNetwork(nn.Module):
    """A network with the attributes that the paper's ``cam`` reads."""

    def __init__(self, last_layer: str) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, padding=1)
        self.fc, self.conv = nn.Linear(6, 5), nn.Conv2d(6, 5, 1)
        self.avgpool = ThresholdedAvgPool2d(0.1)
        self.last_layer = last_layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.feature_map = self.body(images).relu()
        layer = self.fc if self.last_layer == "fc" else self.conv
        self.pred, _ = self.avgpool(self.feature_map, layer)
        return self.pred


@pytest.mark.parametrize("last_layer", ["fc", "conv"])
@pytest.mark.parametrize("batch", [1, 4])
def test_cam_is_the_map_of_the_class_of_that_rank(last_layer: str, batch: int) -> None:
    torch.manual_seed(0)
    network = PaperNetwork(last_layer)
    with torch.inference_mode():
        maps, classes = cam(network, 3, torch.randn(batch, 3, 8, 9), truncate=True)
    order = np.argsort(-network.pred.numpy(), axis=1)[:, 2]
    assert classes.tolist() == order.tolist()
    layer = network.fc if last_layer == "fc" else network.conv
    weight = layer.weight.detach().numpy().reshape(5, 6).clip(min=0)
    expected = np.einsum("bc,bchw->bhw", weight[order], network.feature_map.numpy())
    assert maps.shape == (batch, 1, 8, 9)
    assert maps[:, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_cam_of_given_labels_uses_what_the_last_forward_left() -> None:
    network = PaperNetwork("fc")
    with torch.inference_mode():
        network(torch.randn(2, 3, 4, 4))
        maps, classes = cam(network, labels=torch.tensor([[4], [1]]))
        _, all_maps = network.avgpool(network.feature_map, network.fc)
    assert classes.tolist() == [4, 1]
    assert torch.equal(maps[0, 0], all_maps[0, 4])
    assert torch.equal(maps[1, 0], all_maps[1, 1])


def test_cam_refuses_a_rank_beyond_the_classes() -> None:
    with pytest.raises(ValueError, match="5 classes, got 6"), torch.inference_mode():
        cam(PaperNetwork("fc"), 6, torch.randn(1, 3, 4, 4))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_batched_index_select_is_a_loop_over_the_batch(
    batch: int, length: int, dim: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, 3, 4, 5, generator=generator)
    index = torch.randint(values.shape[dim], (batch, length), generator=generator)
    looped = torch.stack(
        [image.index_select(dim - 1, rows) for image, rows in zip(values, index, strict=True)]
    )
    assert torch.equal(batched_index_select(values, dim, index), looped)
