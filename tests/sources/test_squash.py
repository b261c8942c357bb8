"""Images at the network's size: as Pillow resizes them, and as torchvision normalises them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Normalize
from torchvision.transforms.functional import to_tensor

from cambox.config import ModelSettings
from cambox.models.load import load_classifier
from cambox.sources.load import squash


def photograph(height: int, width: int) -> np.ndarray:
    """Noise of several grains."""
    generator = np.random.default_rng(0)
    sizes = ((5, 5), (40, 30), (height, width))
    layers = [
        np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC))
        for grain in (generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    ]
    mixed: np.ndarray = np.mean(layers, axis=0).astype(np.uint8)
    return mixed


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (224, 224), (100, 80), (1000, 64), (1, 1), (3, 2000)]
)
def test_images_are_squashed_as_pillow_does_it(height: int, width: int) -> None:
    image = photograph(height, width)
    squashed = squash(image, 224, 160)
    expected = np.asarray(Image.fromarray(image).resize((160, 224), Image.Resampling.BILINEAR))
    assert squashed.dtype == np.uint8
    assert squashed.shape == (224, 160, 3)
    # Lines that lie one after the other: what normalises them goes along whole lines.
    assert squashed.flags.c_contiguous
    assert np.abs(squashed.astype(int) - expected).max() <= 1


def test_squashing_is_the_same_in_any_thread() -> None:
    image = photograph(375, 500)
    expected = squash(image, 224, 224)
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(2,)) as pool:
        for squashed in pool.map(lambda _: squash(image, 224, 224), range(8)):
            assert np.array_equal(squashed, expected)


def test_pixels_are_normalised_as_torchvision_does_it() -> None:
    settings = ModelSettings(name="test_resnet", input_size=64)
    classifier = load_classifier(settings, torch.device("cpu"), "float32")
    images = np.stack([photograph(64, 64), photograph(64, 64)[::-1]])
    before = images.copy()
    normalise = Normalize(classifier.preprocessing.mean, classifier.preprocessing.std)
    expected = torch.stack([normalise(to_tensor(image.copy())) for image in images])
    given = classifier.normalised(images)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(images, before)
    assert given.is_contiguous(memory_format=torch.channels_last)
