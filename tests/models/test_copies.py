"""Copies of a classifier run at the same time, each with its own hooks, over one set of weights."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.maps import MapMaker
from cambox.models.load import load_classifier
from cambox.models.middle import with_middle_layers


@pytest.mark.parametrize(
    ("name", "size", "steps"),
    [
        ("mobilenetv2_050", 64, 2),
        ("torchvision/resnet18", 64, 0),  # cut in its traced graph
        ("test_convnext", 160, 0),
        ("test_vit", 160, 0),  # runs with the graph of its tail
    ],
)
def test_copies_at_the_same_time_give_what_one_gives(name: str, size: int, steps: int) -> None:
    classifier = load_classifier(ModelSettings(name=name, input_size=size))
    if steps:
        classifier = with_middle_layers(classifier, 3)
    settings = CamSettings.model_validate({"refine": {"steps": steps}})
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 2, size, size, 3), dtype=np.uint8)
    torch.set_num_threads(1)
    copies = classifier.copies(3)

    def maps(number: int) -> torch.Tensor:
        torch.set_num_threads(1)
        copy = copies[number % 3]
        with torch.inference_mode():
            scores = copy.scores(images[number // 3])
            return MapMaker(settings, copy).maps(scores, torch.tensor([[1, 5], [7, 2]]))

    alone = [maps(number) for number in range(24)]
    barrier = threading.Barrier(3)

    def run(place: int) -> list[torch.Tensor]:
        barrier.wait()
        return [maps(number) for number in range(24) if number % 3 == place]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, range(3)))
    for number, expected in enumerate(alone):
        assert torch.equal(together[number % 3][number // 3], expected)
        assert torch.equal(expected, alone[number - number % 3])


def test_copies_share_their_weights() -> None:
    classifier = load_classifier(ModelSettings(name="mobilenetv2_050", input_size=64))
    _, copy = classifier.copies(2)
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


def test_a_gpu_has_two_copies_and_a_cpu_one_a_thread() -> None:
    classifier = load_classifier(ModelSettings(name="test_resnet", input_size=64))
    assert [classifier.most_at_once(threads) for threads in (1, 2, 8, 64)] == [1, 2, 8, 8]
    on_gpu = replace(classifier, device=torch.device("cuda"))
    assert [on_gpu.most_at_once(threads) for threads in (1, 16)] == [2, 2]
