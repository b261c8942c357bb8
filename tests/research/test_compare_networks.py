"""The jobs that train small networks alike and compare and test their maps."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file

from cambox.config_file import load_config
from cambox.demo import CLASSIFIER
from research import compare_networks, deletion
from research.candidates import (
    CANDIDATES,
    Candidate,
    load_weights,
    make_lessons,
    save_weights,
    teach,
)
from research.hit_rates import ANY, LARGEST, interval_over, overlaps, table
from research.map_variants import Variant, held_out_scenes
from research.training import load_close_ups

RESNET, SWIN, VIT = CANDIDATES[0], CANDIDATES[2], CANDIDATES[3]


@pytest.fixture
def progress() -> Progress:
    return Progress(console=Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def trained_resnet() -> torch.nn.Module:
    """The demo's classifier, which has learned its classes."""
    demo = load_config("demo").model
    module: torch.nn.Module = timm.create_model(demo.name, **demo.kwargs)
    module.load_state_dict(load_file(CLASSIFIER))
    return module.eval()


def test_a_close_up_is_one_texture_all_over(progress: Progress) -> None:
    lesson = load_close_ups(5, 40, 64, progress)
    assert lesson.images.shape == (40, 64, 64, 3)
    assert (lesson.labels.sum(axis=1) == 1).all()
    assert (lesson.labels.sum(axis=0) > 0).all()
    quarters = lesson.images.reshape(40, 2, 32, 2, 32, 3).std(axis=(2, 4)).mean(axis=3)
    # Paper and ink differ by 70 levels, so the least a quarter can have is far above its grain.
    assert quarters.min() > 10


@pytest.mark.parametrize("candidate", [SWIN, VIT], ids=lambda candidate: candidate.name)
def test_a_network_learns_from_small_pictures_and_is_read_again_for_large_ones(
    candidate: Candidate, tmp_path: Path, progress: Progress
) -> None:
    lessons = make_lessons(32, 1, 32, 1, progress)
    module = teach(candidate, lessons, 0, progress).eval()
    path = tmp_path / "weights" / candidate.file_name
    save_weights(module, path)
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        again = load_weights(candidate, path).eval()(images)
        # The same weights; a product is rounded by where in memory they lie, on some processors.
        torch.testing.assert_close(again, module(images))
    for kept, read in zip(
        module.parameters(), load_weights(candidate, path).parameters(), strict=True
    ):
        assert torch.equal(kept, read)


def test_a_hit_is_a_largest_box_on_a_true_one() -> None:
    maps = np.zeros((2, 8, 8), np.float32)
    maps[:, 3:7, 1:5] = 1.0
    maps[1, 0:2, 6:8] = 0.5
    true = [
        np.array([[0.125, 0.375, 0.625, 0.875]]),
        np.array([[0.0, 0.0, 0.1, 0.2], [0.75, 0.0, 1.0, 0.25]]),
    ]
    best = overlaps(maps, true, 64, (0.25, 0.6))
    assert (best[LARGEST] >= 0.5).tolist() == [[True, True], [False, False]]
    # The other component is on a true box, and above the threshold only where that is low.
    assert (best[ANY] >= 0.5).tolist() == [[True, True], [True, False]]


def test_pairs_are_drawn_with_their_picture() -> None:
    seen = []

    def note(counts: np.ndarray) -> float:
        seen.append(counts.tolist())
        return float(counts[2])

    span = interval_over(np.array([7, 7, 9]), note)
    assert {tuple(counts) for counts in seen} == {(2, 2, 0), (1, 1, 1), (0, 0, 2)}
    assert (span.low, span.high) == (0, 2)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(size=400)
    span = interval_over(np.arange(400), lambda counts: float(counts @ values / 400))
    error = 1.96 * values.std() / 20
    assert span.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert span.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_the_comparison_finds_the_demos_objects(
    trained_resnet: torch.nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare_networks, "CANDIDATES", (RESNET,))
    monkeypatch.setattr(compare_networks, "THRESHOLDS", (0.05, 0.5))
    save_weights(trained_resnet, tmp_path / "weights" / RESNET.file_name)
    monkeypatch.setattr(compare_networks, "VARIANTS", (Variant("plain"), Variant("again")))
    compare_networks.main(tmp_path, tmp_path / "weights", pictures=16, scored=80)
    document = json.loads((tmp_path / "networks.json").read_text())
    results = {entry["variant"]: entry for entry in document["results"]}
    assert results["plain"]["best_threshold"] == 0.5
    assert results["plain"]["best"] > 0.9
    assert results["plain"]["gain_interval"] is None
    assert results["again"]["gain_interval"] == {"low": 0, "high": 0}
    span = results["plain"]["best_interval"]
    assert span["low"] <= results["plain"]["best"] <= span["high"]
    [traits] = document["networks"]
    assert traits["negative"] == 0
    assert traits["completeness_error"] < 1e-5
    assert traits["map_share"] == pytest.approx(1, abs=1e-4)
    assert traits["mean_average_precision"] > 0.8
    assert (tmp_path / "networks.jpg").stat().st_size < 200_000


def test_the_first_cells_are_painted_over_and_no_other() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    ranked = np.roll(np.arange(256), 1)[None]  # the last cell, then the first two
    left = deletion.painted_over(images, ranked, 3)
    changed = (left != images).any(axis=(0, 3))
    assert changed[:8, :16].mean() > 0.95
    assert changed[120:, 120:].mean() > 0.95
    changed[:8, :16] = changed[120:, 120:] = False
    assert not changed.any()
    assert left[0, 0, 0].tolist() == images[0].mean(axis=(0, 1)).astype(int).tolist()


def test_the_class_tokens_attention_is_what_the_block_computes() -> None:
    torch.manual_seed(0)
    module = timm.create_model(VIT.model, **{**VIT.kwargs, "num_classes": 8}).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    found = deletion.attention_of_the_class_token(module, images)
    attention = module.blocks[3].attn
    attention.fused_attn = False
    seen: list[torch.Tensor] = []
    attention.attn_drop.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.inference_mode():
        module(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    assert np.allclose(found, seen[0][:, :, 0, 1:].mean(dim=1).numpy(), atol=1e-6)


def test_without_what_the_map_names_the_class_is_gone_soonest(
    trained_resnet: torch.nn.Module, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "SHARES", (0, 10, 20, 30, 50))
    held_out = held_out_scenes(8, progress)
    found = deletion.measure(RESNET, trained_resnet, held_out, lambda: None)
    areas = {entry.order: entry.area for entry in found}
    assert areas["own map"] < 0.8 * areas["by chance"]
    assert areas["by chance"] < areas["own map, least first"]
    assert len({entry.probabilities[0] for entry in found}) == 1
    assert "| ResNet | own map | " in table(found)
