"""The linear layer against scikit-learn's, its probabilities, and labels that are planted wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from cambox.linear_probe.examples import Activation, Examples, fold_of
from cambox.linear_probe.feature_file import ROWS_AT_ONCE, FeatureFile
from cambox.linear_probe.fit import away_from_borders, calibrate, fit_probe
from cambox.linear_probe.layer import Problem, class_weights
from cambox.linear_probe.report import probabilities, quality, report
from cambox.linear_probe.suspects import suspects_of

CPU = torch.device("cpu")
CLASSES, WIDTH = 4, 6


def examples_of(targets: np.ndarray, features: np.ndarray, activation: Activation) -> Examples:
    keys = [f"picture-{number}" for number in range(len(targets))]
    return Examples(
        keys=keys,
        shards=["a.tar"] * len(keys),
        places=np.arange(len(keys)),
        features=FeatureFile.of(features),
        borders=None,
        targets=targets.astype(np.float32),
        fold=np.array([fold_of(key) for key in keys]),
        activation=activation,
        class_names=tuple("abcdefgh"[: targets.shape[1]]),
        background=None,
        left_out={},
    )


def array_of(file: FeatureFile) -> np.ndarray:
    return np.concatenate([block.astype(np.float64) for _, block in file.blocks()])


def clouds(count: int, spread: float = 1.0, seed: int = 0) -> Examples:
    """Pictures of four classes, the first three times as frequent, as clouds of features."""
    generator = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(7).normal(size=(CLASSES, WIDTH))
    label = generator.choice(CLASSES, count, p=[0.5, 1 / 6, 1 / 6, 1 / 6])
    features = 5 + centres[label] + spread * generator.normal(size=(count, WIDTH))
    return examples_of(np.eye(CLASSES)[label], features, "softmax")


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_a_softmax_layer_is_that_of_scikit_learn(balanced: bool, strength: float) -> None:
    examples = clouds(300, spread=3)
    problem = Problem.of(examples, balanced, CPU)
    features = array_of(examples.features)
    layer = problem.layer(problem.solve(np.ones(300, bool), strength))
    label = examples.targets.argmax(axis=1)
    scaled = (features - problem.mean) / problem.scale
    weights = compute_sample_weight("balanced" if balanced else None, label)
    peer = LogisticRegression(C=1 / (strength * weights.sum()), tol=1e-8, max_iter=5000)
    peer.fit(scaled, label, weights)
    mine = layer.weight * problem.scale
    assert np.abs(mine - peer.coef_).max() < 5e-3
    found = probabilities(layer.logits(features), "softmax")
    assert np.abs(found - peer.predict_proba(scaled)).max() < 2e-3


def test_a_sigmoid_layer_is_one_of_scikit_learn_for_each_class() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(200, WIDTH))
    targets = features @ generator.normal(size=(WIDTH, 3)) + generator.normal(size=(200, 3)) > 0.5
    examples = examples_of(targets, features, "sigmoid")
    problem = Problem.of(examples, False, CPU)
    layer = problem.layer(problem.solve(np.ones(200, bool), 0.01))
    scaled = (array_of(examples.features) - problem.mean) / problem.scale
    for place in range(3):
        # Its loss is the sum over pictures; here it is the mean over pictures and three classes.
        peer = LogisticRegression(C=1 / (0.01 * 3 * 200), tol=1e-8, max_iter=5000)
        peer.fit(scaled, targets[:, place])
        assert np.abs(layer.weight[place] * problem.scale - peer.coef_[0]).max() < 5e-3


def test_features_are_centred_and_scaled_as_of_all_at_once() -> None:
    features = np.random.default_rng(0).normal(3, 2, (2 * ROWS_AT_ONCE + 1, 50))
    examples = examples_of(np.eye(2)[np.arange(len(features)) % 2], features, "softmax")
    problem = Problem.of(examples, True, CPU)
    stored = features.astype(np.float16).astype(np.float64)
    assert np.array_equal(array_of(examples.features), stored)
    assert np.allclose(problem.mean, stored.mean(axis=0))
    assert problem.scale == pytest.approx(np.sqrt(stored.var(axis=0).mean()))
    used = np.arange(len(features)) % 3 == 1
    fewer = problem.of_pictures(used)
    assert np.array_equal(array_of(fewer.features), stored[used])
    layer = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 51)).astype(np.float32))
    inputs = np.insert((stored - problem.mean) / problem.scale, 50, 1, axis=1)
    expected = inputs[used] @ layer.numpy().T
    assert np.allclose(problem.logits(layer, used), expected, atol=1e-4)
    assert np.allclose(fewer.logits(layer, used[used]), expected, atol=1e-4)
    assert np.allclose(problem.layer(layer).logits(stored[used]), expected, atol=1e-4)


def memory_of_a_fit(count: int) -> float:
    """Megabytes, at the height, over what was there before; features take 5 kB a picture."""
    features, borders = FeatureFile(), FeatureFile()
    generator = np.random.default_rng(0)
    for file in (features, borders):
        for _ in range(count // 500):
            file.append(generator.normal(size=(500, 1280)))
    examples = examples_of(np.eye(2)[np.arange(count) % 2], np.zeros((count, 1)), "softmax")
    examples = replace(examples, features=features)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from now on
    before = status_of_this_process("VmRSS")
    problem = Problem.of(examples, True, CPU).of_pictures(np.arange(count) % 10 > 0)
    used = np.arange(len(problem.targets)) % 5 > 0
    layer = problem.solve(used, 1.0)
    assert problem.loss(layer, ~used) > 0
    assert np.isfinite(problem.logits(layer, ~used)).all()
    away_from_borders(examples, borders, 1.0, CPU)
    return status_of_this_process("VmHWM") - before


def status_of_this_process(entry: str) -> float:
    found = re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def test_memory_does_not_grow_with_the_pictures() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not tell a process's height of memory")
    memory_of_a_fit(500)
    few, many = memory_of_a_fit(500), memory_of_a_fit(5000)
    assert many - few < 10  # one copy of the features more would be 12 in float16


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    targets = clouds(100).targets
    expected = compute_sample_weight("balanced", targets.argmax(axis=1))
    assert np.allclose(class_weights(targets, "softmax", True)[:, 0], expected)
    of_several = class_weights(targets, "sigmoid", True)
    for place in range(CLASSES):
        shown = targets[:, place] > 0
        assert np.isclose(of_several[shown, place].sum(), of_several[~shown, place].sum())


def test_probabilities_are_held_out_and_hold() -> None:
    examples = clouds(1500, spread=2.5)
    fit = fit_probe(examples, True, CPU)
    assert fit.strength == min(fit.tried, key=lambda one: one[1])[0]
    new = clouds(4000, spread=2.5, seed=9)
    held_out = quality(probabilities(fit.held_out, "softmax"), examples.targets, "softmax")
    found = probabilities(fit.layer.logits(array_of(new.features)), "softmax")
    on_new = quality(found, new.targets, "softmax")
    # What the held-out parts say is what pictures from elsewhere show.
    assert held_out.accuracy is not None
    assert on_new.accuracy is not None
    assert abs(held_out.accuracy - on_new.accuracy) < 0.03
    assert abs(held_out.log_loss - on_new.log_loss) < 0.05
    assert on_new.error < 0.03
    assert np.isclose(on_new.log_loss, log_loss(new.targets.argmax(axis=1), found), rtol=1e-6)
    # Weighing the classes has moved their frequencies, and the calibration takes that back.
    assert np.abs(found.mean(axis=0) - new.targets.mean(axis=0)).max() < 0.02


def test_a_known_temperature_is_found() -> None:
    generator = np.random.default_rng(2)
    logits = 2 * generator.normal(size=(20_000, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (chances.cumsum(axis=1) > generator.random((20_000, 1))).argmax(axis=1)
    calibration = calibrate(3 * logits + [0, 1, -1], np.eye(3)[label], "softmax")
    assert np.isclose(calibration.temperature, 3, rtol=0.05)
    shift = calibration.shift + np.array([0, 1, -1]) / 3
    assert np.abs(shift - shift.mean()).max() < 0.05


def test_a_class_without_pictures_is_never_predicted() -> None:
    some = clouds(120)
    wider = np.insert(some.targets, 1, 0, axis=1)
    examples = replace(some, targets=wider, class_names=tuple("abcde"))
    fit = fit_probe(examples, True, CPU)
    found = probabilities(fit.layer.logits(array_of(some.features)), "softmax")
    assert found[:, 1].max() < 1e-3
    assert np.isfinite(fit.layer.weight).all()
    (without,) = [
        one for one in report(examples, fit, "-", True, None, 0).classes if one.pictures == 0
    ]
    assert (without.name, without.average_precision, without.recall) == ("b", None, None)


def test_against_borders_no_probability_changes_and_maps_do() -> None:
    examples = clouds(200, spread=2)
    # Surroundings have more of one feature, whatever the class.
    features = array_of(examples.features)
    borders = FeatureFile.of(features + 4 * np.eye(WIDTH)[2])
    plain, against = (
        fit_probe(replace(examples, borders=some), True, CPU).layer for some in (None, borders)
    )
    expected, found = (
        probabilities(layer.logits(features), "softmax") for layer in (plain, against)
    )
    assert np.abs(expected - found).max() < 1e-9
    added = against.weight - plain.weight
    assert np.allclose(added, added[0])  # the same for each class
    assert added[0].argmin() == 2  # what surroundings have counts against


def test_labels_that_were_planted_wrong_are_suspects() -> None:
    examples = clouds(400, spread=0.4)
    wrong = np.random.default_rng(5).choice(400, 12, replace=False)
    targets = examples.targets.copy()
    targets[wrong] = np.roll(targets[wrong], 1, axis=1)
    planted = replace(examples, targets=targets)
    suspects = suspects_of(planted, fit_probe(planted, True, CPU)).to_pylist()
    found = {one["sample_index"] for one in suspects[:14]}
    assert len(found & set(wrong.tolist())) >= 11
    first = suspects[0]
    assert first["reason"] == "wrong label"
    assert first["likelier"] == "abcd"[examples.targets[first["sample_index"]].argmax()]
    doubts = [one["doubt"] for one in suspects]
    assert doubts == sorted(doubts, reverse=True)


def test_a_label_that_was_taken_away_is_missing() -> None:
    generator = np.random.default_rng(3)
    targets = generator.random((300, 3)) < 0.4
    features = 6 * targets + generator.normal(size=(300, 3))
    taken = np.flatnonzero(targets[:, 1])[:6]
    fewer = targets.copy()
    fewer[taken, 1] = False
    examples = examples_of(fewer, features, "sigmoid")
    suspects = suspects_of(examples, fit_probe(examples, False, CPU)).to_pylist()
    missing = [one for one in suspects[:8] if one["reason"] == "missing label"]
    assert len({one["sample_index"] for one in missing} & set(taken.tolist())) >= 5
    assert all(one["class_name"] is None and one["likelier"] for one in missing)


def test_few_pictures_of_which_no_fold_is_full() -> None:
    examples = clouds(8, spread=0.1)
    label = np.arange(8) % 2
    few = replace(examples, targets=np.eye(CLASSES, dtype=np.float32)[label])
    # The part that most are held out in is the last one, and the first is empty.
    few = replace(few, fold=np.array([1, 2, 4, 4, 4, 4, 1, 2]))
    threads = torch.get_num_threads()
    fit = fit_probe(few, True, CPU)
    assert torch.get_num_threads() == threads
    assert all(np.isfinite(loss) for _, loss in fit.tried)
    assert np.isfinite(fit.layer.weight).all()
