"""Score maps of the wanted classes against the maps of all classes; weights; class choice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.cams.score_maps import WantedClass, class_score_maps, class_weights, wanted_classes


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_wanted_maps_equal_those_of_a_full_class_convolution(
    batch: int, wanted: int, channels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, 3, 5, generator=generator)
    weight = torch.randn(6, channels, generator=generator)
    bias = torch.randn(6, generator=generator)
    class_ids = torch.randint(6, (batch, wanted), generator=generator)
    everything = F.conv2d(features, weight[:, :, None, None])
    rectified = F.conv2d(features, weight[:, :, None, None], bias).relu()
    for image in range(batch):
        expected = everything[image, class_ids[image]]
        actual = class_score_maps(features, weight, class_ids)[image]
        assert torch.allclose(actual, expected, atol=1e-5)
        cells = class_score_maps(features, weight, class_ids, bias)[image]
        assert torch.allclose(cells, rectified[image, class_ids[image]], atol=1e-5)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(K, 4\), got \(6, 3\)"):
        class_score_maps(torch.ones(1, 4, 2, 2), torch.ones(6, 3), torch.zeros(1, 1, dtype=int))
    with pytest.raises(ValueError, match=r"\(1, n\), got \(2, 1\)"):
        class_score_maps(torch.ones(1, 3, 2, 2), torch.ones(6, 3), torch.zeros(2, 1, dtype=int))


WEIGHT = torch.tensor([[-2.0, 1.0, 4.0], [-0.5, 0.0, 0.5]])


@pytest.mark.parametrize(
    ("shift", "smallest", "largest"),
    [
        ({"global_min": 0.0}, [0.0, 1.5], [6.0, 2.5]),
        ({"global_min": 0.25}, [0.25, 1.75], [6.25, 2.75]),
        ({"adaptive_min": 0.0}, [0.0, 0.0], [6.0, 1.0]),
        # (4 + 2 x 2) / 1 = 8 over all; (0.5 + 2 x 0.5) / 1 = 1.5 for the second class alone.
        ({"global_multiple": 2.0}, [6.0, 7.5], [12.0, 8.5]),
        ({"adaptive_multiple": 2.0}, [6.0, 1.0], [12.0, 2.0]),
        (1.5, [-0.5, 1.0], [5.5, 2.0]),
    ],
)
def test_shift_modes(shift: object, smallest: list[float], largest: list[float]) -> None:
    shifted = class_weights(WEIGHT, shift=shift)  # type: ignore[arg-type]
    assert shifted.amin(dim=1).tolist() == pytest.approx(smallest)
    assert shifted.amax(dim=1).tolist() == pytest.approx(largest)


def test_truncate_keeps_the_positive_weights_alone() -> None:
    assert class_weights(WEIGHT, truncate=True).tolist() == [[0, 1, 4], [0, 0, 0.5]]


@pytest.mark.parametrize("shift", [{"local_min": 0.0}, {"global_max": 1.0}, {"global_multiple": 1}])
def test_an_unusable_shift_is_refused(shift: object) -> None:
    with pytest.raises(ValueError, match="shift"):
        class_weights(WEIGHT, shift=shift)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "labels", "ranks", "minimum", "expected"),
    [
        ("predicted", (9,), None, 0.0, [(7, 1), (3, 2), (5, 3)]),
        ("predicted", (), [2], 0.0, [(3, 2)]),
        ("predicted", (), None, 0.2, [(7, 1), (3, 2)]),
        ("label", (9, 3), None, 0.9, [(9, 0), (3, 0)]),
        ("label", (), None, 0.0, []),
        ("both", (9, 3), None, 0.0, [(9, 0), (3, 0), (7, 1), (5, 3)]),
        ("both", (), [1], 0.0, [(7, 1)]),
    ],
)
def test_choice_of_classes(
    classes: str,
    labels: tuple[int, ...],
    ranks: list[int] | None,
    minimum: float,
    expected: list[tuple[int, int]],
) -> None:
    chosen = wanted_classes([7, 3, 5], [0.6, 0.3, 0.1], labels, classes, ranks, minimum)  # type: ignore[arg-type]
    assert chosen == [WantedClass(*pair) for pair in expected]
