"""Several batches at once: in order, each with its own hooks, over one set of weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from cambox.config import CamSettings, ModelSettings
from cambox.in_order import in_order
from cambox.maps import MapMaker
from cambox.models.classifier import load_classifier, with_middle_layers
from cambox.models.lanes import lane_count, lanes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "size", "steps"),
    [
        ("mobilenetv2_050", 64, 2),
        ("torchvision/resnet18", 64, 0),  # cut in its traced graph
        ("test_convnext", 160, 0),
        ("test_vit", 160, 0),  # runs with the graph of its tail
    ],
)
def test_lanes_at_the_same_time_give_what_one_gives(name: str, size: int, steps: int) -> None:
    classifier = load_classifier(ModelSettings(name=name, input_size=size), CPU, "float32")
    if steps:
        classifier = with_middle_layers(classifier, 3)
    settings = CamSettings.model_validate({"refine": {"steps": steps}})
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 2, size, size, 3), dtype=np.uint8)
    torch.set_num_threads(1)
    copies = lanes(classifier, 3)

    def maps(number: int) -> torch.Tensor:
        torch.set_num_threads(1)
        lane = copies[number % 3]
        with torch.inference_mode():
            scores = lane.scores(images[number // 3])
            return MapMaker(settings, lane).maps(scores, torch.tensor([[1, 5], [7, 2]]))

    alone = [maps(number) for number in range(24)]
    barrier = threading.Barrier(3)

    def run(lane: int) -> list[torch.Tensor]:
        barrier.wait()
        return [maps(number) for number in range(24) if number % 3 == lane]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, range(3)))
    for number, expected in enumerate(alone):
        assert torch.equal(together[number % 3][number // 3], expected)
        assert torch.equal(expected, alone[number - number % 3])


def test_lanes_share_their_weights() -> None:
    classifier = load_classifier(
        ModelSettings(name="mobilenetv2_050", input_size=64), CPU, "float32"
    )
    _, copy = lanes(classifier, 2)
    assert copy.module is not classifier.module
    owners = dict(classifier.module.named_parameters())
    assert all(owners[name] is value for name, value in copy.module.named_parameters())
    forwards = [part.__dict__.get("forward") for part in classifier.module.modules()]
    copied = [part.__dict__.get("forward") for part in copy.module.modules()]
    packed = [
        (mine, theirs)
        for mine, theirs in zip(forwards, copied, strict=True)
        if getattr(mine, "weight", None) is not None
    ]
    assert len(packed) > 40
    assert all(mine.weight is theirs.weight for mine, theirs in packed)
    assert all(mine.conv is not theirs.conv for mine, theirs in packed)


def test_a_gpu_has_two_lanes_and_a_cpu_one_a_thread() -> None:
    classifier = load_classifier(ModelSettings(name="test_resnet", input_size=64), CPU, "float32")
    assert [lane_count(classifier, threads) for threads in (1, 2, 8, 64)] == [1, 2, 8, 8]
    on_gpu = replace(classifier, device=torch.device("cuda"))
    assert [lane_count(on_gpu, threads) for threads in (1, 16)] == [2, 2]


def test_results_come_in_order_and_not_far_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    first_may_go = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert first_may_go.wait(10)
        return number * number

    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, work, items(), 3)
        threading.Timer(0.1, first_may_go.set).start()
        assert next(results) == 0
        assert len(taken) == 4
        assert list(results) == [number * number for number in range(1, 20)]


def test_what_was_begun_is_waited_for_and_the_rest_is_not_begun() -> None:
    begun, ended = [], []
    go_on = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            raise ValueError("the first")
        begun.append(number)
        if number <= 2:
            go_on.wait(10)
        ended.append(number)
        return number

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, work, range(9), 6)
        threading.Timer(0.2, go_on.set).start()
        with pytest.raises(ValueError, match="the first"):
            list(results)
        assert sorted(begun) == sorted(ended)
        assert len(begun) < 8
