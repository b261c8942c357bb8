"""JPEGs decoded and resized together; torchvision's decoder on the CPU stands in for the GPU's."""

import dataclasses
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cambox.config import Config, InputSettings
from cambox.sources import decode_on_gpu
from cambox.sources.decode_on_gpu import squash_jpegs
from cambox.sources.load import LoadRule, load_samples
from cambox.sources.samples import Sample

CPU = torch.device("cpu")
MAX_PIXELS = 10**6


def picture(height: int = 90, width: int = 120) -> np.ndarray:
    """Four areas of their own colour, so that no turn of it looks like another."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    image[height // 2 :, : width // 2] = (30, 30, 200)
    return cv2.GaussianBlur(image, (0, 0), 3)


def jpeg(image: np.ndarray, orientation: int = 1, mode: str = "RGB", **options: bool) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    kept = Image.fromarray(image).convert(mode)
    kept.save(buffer, "JPEG", quality=95, exif=exif, **options)
    return buffer.getvalue()


def squashed(files: list[bytes | None], size: tuple[int, int] = (32, 40)) -> list:
    return squash_jpegs(files, lambda height, width: size, MAX_PIXELS, CPU)


def by_pillow(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Upright and at the size (height, width)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    turn = {
        **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180},
        **{4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE},
        **{6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE},
        8: Image.Transpose.ROTATE_90,
    }.get(image.getexif().get(0x0112, 1))
    upright = image if turn is None else image.transpose(turn)
    return np.asarray(upright.resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_pillows_picture_upright_and_resized(orientation: int) -> None:
    data = jpeg(picture(), orientation)
    (found,) = squashed([data])
    assert found[:2] == ((90, 120) if orientation < 5 else (120, 90))
    assert found.pixels.shape == (32, 40, 3)
    gap = np.abs(found.pixels.astype(int) - by_pillow(data, (32, 40)))
    assert gap.max() <= 2


def test_grey_pictures_and_those_of_several_sizes_come_in_order() -> None:
    files = [jpeg(picture(60, 50)), None, jpeg(picture(), mode="L"), jpeg(picture(200, 90), 6)]
    found = squashed(files)
    assert [one and one[:2] for one in found] == [(60, 50), None, (90, 120), (90, 200)]
    for one, data in zip(found, files, strict=True):
        if data is not None:
            assert np.abs(one.pixels.astype(int) - by_pillow(data, (32, 40))).max() <= 2


@pytest.mark.parametrize("at_once", [1, 2 * 60 * 50, 1 << 23])
def test_pictures_of_one_size_are_resized_together_and_keep_their_places(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(60, 50), (90, 120), (60, 50), (50, 60), (60, 50), (90, 120), (60, 50)]
    files = [
        jpeg(np.roll(picture(*size), 9 * place, axis=1), 6 if size == (50, 60) else 1)
        for place, size in enumerate(sizes)
    ]
    alone = [squashed([data])[0] for data in files]
    monkeypatch.setattr(decode_on_gpu, "PIXELS_AT_ONCE", at_once)
    together = squashed(files)
    assert len({one.pixels.tobytes() for one in together}) == len(files)
    for one, other in zip(together, alone, strict=True):
        assert one[:2] == other[:2]
        assert np.array_equal(one.pixels, other.pixels)


def png() -> bytes:
    return bytes(cv2.imencode(".png", picture())[1])


@pytest.mark.parametrize(
    "data",
    [
        png(),
        jpeg(picture(), progressive=True),
        jpeg(picture(), mode="CMYK"),
        jpeg(picture())[:-200],
        jpeg(picture(1200, 1000)),
        b"",
        b"no picture",
    ],
    ids=["png", "progressive", "cmyk", "cut", "too large", "empty", "other"],
)
def test_what_a_gpu_does_not_decode_is_left_to_the_cpu(data: bytes) -> None:
    good = jpeg(picture())
    other, found = squashed([data, good])
    assert other is None
    assert found is not None


def test_where_the_decoder_refuses_one_all_are_left_to_the_cpu() -> None:
    good = jpeg(picture())
    # The header is whole, and so is the end; the tables in between are not.
    start = good.index(b"\xff\xdb") + 4
    damaged = good[:start] + b"\xff" * 40 + good[start + 40 :]
    rule = LoadRule(InputSettings(shards=["x"]), 32, 40, None, False, gpu=CPU)
    samples = [
        Sample(key=str(place), index=place, members={"jpg": data}, image="jpg")
        for place, data in enumerate([good, damaged, png(), b"", good])
    ]
    for one, other in _pairs(samples, rule):
        assert (one.status, one.error) == (other.status, other.error)
        assert (one.width, one.height) == (other.width, other.height)
        if one.pixels is not None:
            assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 2


def _pairs(samples: list[Sample], rule: LoadRule) -> zip:
    """What the rule makes of samples, each beside what the CPU's decoder does."""
    on_cpu = dataclasses.replace(rule, gpu=None)
    return zip(load_samples(samples, rule), load_samples(samples, on_cpu), strict=True)


def test_photographs_are_those_of_the_cpu(shared: Path) -> None:
    photographs = sorted((shared / "data" / "photos-300" / "images").iterdir())
    samples = [
        Sample(key=path.stem, index=place, members={"jpg": path.read_bytes()}, image="jpg")
        for place, path in enumerate(photographs)
    ]
    rule = LoadRule(InputSettings(shards=["x"]), 224, 224, None, False, gpu=CPU)
    for one, other in _pairs(samples, rule):
        gap = np.abs(one.pixels.astype(int) - other.pixels)
        assert gap.max() <= 1
        assert gap.mean() < 0.3


def test_the_whole_image_is_needed_at_one_size() -> None:
    with pytest.raises(ValueError, match=r"input\.decoder: gpu resizes"):
        Config.model_validate(
            {
                "input": {"shards": ["x.tar"], "decoder": "gpu"},
                "model": {"name": "resnet18"},
                "cam": {"zoom": {}},
                "output": {"uri": "out"},
            }
        )
