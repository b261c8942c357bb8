"""Pixels agree with Pillow's, and a damaged image never becomes pixels."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cambox.sources.decode import DecodeError, SampleStatus, decode_image, is_upright
from cambox.sources.formats import PILLOW_FORMATS
from makers import ROOT, SHARED
from odd_pictures import ORIENTATIONS, PLACES, bmp_of_16_bits, encode, noted, png_chunk

PHOTOS = SHARED / "data" / "photos-300" / "images"
LIMIT = 100_000_000
LOSSLESS = ("PNG", "BMP", "TIFF", "PPM")


def picture(mode: str = "RGB", size: tuple[int, int] = (37, 23)) -> Image.Image:
    """Smooth, unlike in all four corners, so that a flip or a turn shows."""
    x, y = np.meshgrid(np.linspace(0, 200, size[0]), np.linspace(0, 250, size[1]))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def by_pillow(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def pixels_or_error(data: bytes, limit: int = LIMIT) -> npt.NDArray[np.uint8] | DecodeError:
    try:
        return decode_image(data, limit)
    except DecodeError as error:
        return error


def furthest(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.uint8
    return int(np.abs(one.astype(int) - other).max())


KINDS = {
    "PNG": ("RGB", "L", "P", "1", "RGBA", "LA"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1", "RGBA"),
    "TIFF": ("RGB", "L", "P", "1", "RGBA", "CMYK"),
    "GIF": ("RGB", "L", "P", "1", "RGBA"),
    "PPM": ("RGB", "L", "1"),
    "JPEG2000": ("RGB", "L", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in KINDS.items() for mode in modes]
)
def test_pixels_are_pillows(kind: str, mode: str) -> None:
    image = picture(mode)
    if mode == "RGBA":
        image.putalpha(picture("L").point(lambda value: value + 5))
    data = encode(image, kind)
    # CMYK to RGB is a matter of taste; lossy formats may be decoded with another rounding.
    tolerance = 12 if mode == "CMYK" else 0 if kind in LOSSLESS else 3
    assert furthest(decode_image(data, LIMIT), by_pillow(data)) <= tolerance


@pytest.mark.parametrize(("kind", "where"), PLACES)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_is_applied_once_wherever_it_is_noted(
    kind: str, where: str, orientation: int
) -> None:
    data = noted(picture(), kind, where, orientation)
    pixels = decode_image(data, LIMIT)
    assert pixels.shape == ((37, 23, 3) if orientation > 4 else (23, 37, 3))
    assert furthest(pixels, by_pillow(data)) == 0
    assert is_upright(data, LIMIT) == (orientation == 1)


def test_no_notes_no_longer_known_values_and_damaged_ones_turn_nothing() -> None:
    plain = picture()
    for data in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        for kind in ("JPEG", "PNG", "WEBP"):
            file = encode(plain, kind, exif=data)
            assert furthest(decode_image(file, LIMIT), by_pillow(encode(plain, kind))) == 0
            assert is_upright(file, LIMIT)
    for value in (0, 9, 4000):
        assert decode_image(noted(plain, "JPEG", "exif", value), LIMIT).shape == (23, 37, 3)


def test_odd_files_of_others_are_upright() -> None:
    folder = SHARED / "data" / "odd-files"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    for name in ("webp6_prefix.webp", "avif6.avif"):
        data = (folder / name).read_bytes()
        assert furthest(decode_image(data, LIMIT), by_pillow(data)) == 0
        assert decode_image(data, LIMIT).shape == (136, 320, 3)
        assert not is_upright(data, LIMIT)
    pixels = decode_image((folder / "0037_Pillow_chunk_no_fctl.png").read_bytes(), LIMIT)
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[0, 255, 0]]


def test_sixteen_bits_keep_the_upper_eight() -> None:
    wide = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = encode(Image.fromarray(wide), "PNG")
    assert furthest(decode_image(data, LIMIT)[..., 0], (wide >> 8).astype(np.uint8)) <= 1
    ok, colour = cv2.imencode(".png", np.dstack([wide, wide // 2, wide // 4]))
    assert ok
    expected = (np.dstack([wide // 4, wide // 2, wide]) >> 8).astype(np.uint8)
    assert furthest(decode_image(colour.tobytes(), LIMIT), expected) <= 1


def test_grey_of_sixteen_bits_keeps_the_upper_eight_in_every_format() -> None:
    wide = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    for kind, options in {
        "PNG": {},
        "TIFF": {},
        "PPM": {},
        "JPEG2000": {"irreversible": False},
    }.items():
        data = encode(Image.fromarray(wide), kind, **options)
        assert furthest(decode_image(data, LIMIT)[..., 2], (wide >> 8).astype(np.uint8)) == 0


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "AVIF"])
def test_the_first_of_several_frames_is_taken(kind: str) -> None:
    frames = [picture(), ImageOps.invert(picture())]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert furthest(decode_image(data, LIMIT), by_pillow(data)) <= 3


def test_of_an_animated_png_the_default_image_is_taken_whatever_its_animation_is() -> None:
    frames = [picture(), ImageOps.invert(picture()), picture("L").convert("RGB")]
    options = {"save_all": True, "append_images": frames[1:], "default_image": True}
    data = encode(frames[0], "PNG", **options)
    assert furthest(decode_image(data, LIMIT), np.asarray(frames[0])) == 0
    for chunk in (b"fcTL", b"fdAT"):
        start = data.index(chunk) - 4
        length = struct.unpack_from(">I", data, start)[0] + 12
        odd = data[:start] + data[start + length :]
        assert furthest(decode_image(odd, LIMIT), np.asarray(frames[0])) == 0


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("I", "TIFF"), ("F", "TIFF"), ("LAB", "TIFF"), ("RGBA", "TIFF"), ("F", "PPM")),
        *(("YCbCr", "JPEG2000"), ("CMYK", "JPEG2000"), ("RGB", "DIB"), ("RGBA", "TGA")),
        *(("RGB", "QOI"), ("RGB", "SGI"), ("RGB", "MPO")),
    ],
)
def test_what_opencv_does_not_read_or_reads_its_own_way_is_pillows(mode: str, kind: str) -> None:
    data = encode(picture(mode), kind)
    assert furthest(decode_image(data, LIMIT), by_pillow(data)) == 0


def test_tiff_of_few_bits_and_bmp_of_many_and_gif_with_a_background_are_pillows() -> None:
    chance = np.random.default_rng(0)
    grey = np.tile(np.arange(16, dtype=np.uint8), (6, 2))
    packed = (grey[:, ::2] << 4 | grey[:, 1::2]).tobytes()
    tiff = tiff_of_four_bits(packed, width=32, height=6)
    assert furthest(decode_image(tiff, LIMIT)[..., 0], grey * 17) == 0
    clear = picture("RGBA")
    clear.putalpha(picture("L").point(lambda value: 255 * (value > 90)))
    for data in (
        bmp_of_16_bits(chance, (0xF800, 0x7E0, 0x1F)),
        bmp_of_16_bits(chance, ()),
        encode(clear, "GIF", background=3),
    ):
        assert furthest(decode_image(data, LIMIT), by_pillow(data)) == 0


def tiff_of_four_bits(packed: bytes, width: int, height: int) -> bytes:
    """Grey, which Pillow reads and no library here writes."""
    entries = {256: width, 257: height, 258: 4, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries[279] = len(packed)
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    count = struct.pack("<H", len(entries))
    start = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    return start + packed + count + fields + bytes(4)


def test_a_ppm_that_declares_two_sizes_is_of_the_one_that_was_checked() -> None:
    """OpenCV takes the comment for the height, and makes room for it."""
    data = b"P6\n4#20000\n 3\n255\n" + bytes(range(36))
    assert decode_image(data, 12).tolist() == by_pillow(data).tolist()
    assert decode_image(data, 12).shape == (3, 4, 3)


def test_a_png_whose_checksum_does_not_hold_is_damaged_and_one_without_its_end_is_not() -> None:
    image = picture()
    whole = encode(image, "PNG")
    pixels = whole.index(b"IDAT") + 4
    end = whole.index(b"IEND") - 4
    for data in (whole, whole[:end] + png_chunk(b"eXIf", b"") + whole[end:]):
        damaged = bytearray(data)
        damaged[pixels + 9] ^= 4
        assert isinstance(pixels_or_error(bytes(damaged)), DecodeError)
    for cut in range(1, 13):
        assert furthest(decode_image(whole[:-cut], LIMIT), np.asarray(image)) == 0


def test_heic_is_read_with_a_library_of_its_own_or_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    brands = b"ftypheic\0\0\0\0mif1heic"
    with pytest.raises(DecodeError, match=r"pillow-heif .* pip install 'cambox\[heic\]'") as caught:
        decode_image(struct.pack(">I", 4 + len(brands)) + brands + bytes(100), LIMIT)
    assert caught.value.status is SampleStatus.unreadable
    monkeypatch.undo()
    library = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    library.register_heif_opener()
    data = encode(picture(), "HEIF", quality=100)
    assert furthest(decode_image(data, LIMIT), np.asarray(picture())) <= 12
    assert is_upright(data, LIMIT)


def test_photographs_are_pillows() -> None:
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is not here")
    for path in sorted(PHOTOS.iterdir())[::12]:
        data = path.read_bytes()
        assert furthest(decode_image(data, LIMIT), by_pillow(data)) <= 3


def photographs() -> list[bytes]:
    """Baseline and progressive JPEG, of real photographs where they are at hand."""
    paths = sorted(PHOTOS.iterdir())[::30] if PHOTOS.is_dir() else []
    data = [path.read_bytes() for path in paths] or [encode(picture(size=(400, 300)), "JPEG")]
    again = [Image.open(io.BytesIO(d)).convert("RGB") for d in data]
    return [
        *data,
        *(encode(image, "JPEG", progressive=True) for image in again),
        *(encode(image, "JPEG", restart_marker_blocks=4) for image in again[:3]),
        *(encode(image, "JPEG", progressive=True, subsampling=0) for image in again[:3]),
    ]


def test_a_cut_jpeg_never_loses_pixels() -> None:
    chance = random.Random(0)
    refused = 0
    for data in photographs():
        whole = decode_image(data, LIMIT)
        cuts = [len(data) - tail for tail in (1, 2, 3, 4, 5, 8, 16, 64, 512)]
        for cut in cuts + chance.sample(range(len(data)), 20):
            pixels = pixels_or_error(data[:cut])
            if isinstance(pixels, DecodeError):
                assert pixels.status is SampleStatus.unreadable
                refused += 1
            else:
                # Without its last two bytes, the end marker, all the pixels can still be there.
                assert cut >= len(data) - 2
                assert furthest(pixels, whole) == 0
    assert refused > 100


@pytest.mark.parametrize("kind", [kind for kind in PILLOW_FORMATS if kind not in ("JPEG", "SUN")])
def test_other_cut_images_never_lose_pixels(kind: str) -> None:
    data = encode(picture(size=(64, 48)), kind)
    whole = decode_image(data, LIMIT)
    for cut in range(0, len(data), max(1, len(data) // 60)):
        pixels = pixels_or_error(data[:cut])
        if isinstance(pixels, DecodeError):
            assert pixels.status is SampleStatus.unreadable
        else:
            assert furthest(pixels, whole) == 0
    with pytest.raises(DecodeError, match=r"cut, damaged|cut or damaged"):
        decode_image(data[: len(data) * 3 // 4], LIMIT)


def test_reasons_are_told_apart() -> None:
    jpeg = encode(picture(size=(64, 48)), "JPEG")
    reasons = {}
    for name, data in {
        "empty": b"",
        "text": b"<html>not found</html>",
        "header": jpeg[:40],
        "cut": jpeg[: len(jpeg) * 3 // 4],
        "zeros": bytes(5000),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }.items():
        with pytest.raises(DecodeError) as caught:
            decode_image(data, LIMIT)
        assert caught.value.status is SampleStatus.unreadable
        reasons[name] = str(caught.value)
    assert reasons["empty"] == "the file is empty (zero bytes)"
    assert reasons["text"] == reasons["zeros"] == reasons["postscript"]
    assert reasons["text"] == "not an image of a known format"
    assert (
        reasons["cut"]
        == "JPEG of 64 x 48 pixels can not be decoded: cut, damaged or of a rare kind"
    )
    assert len(set(reasons.values())) == 4


def png_of(width: int, height: int) -> bytes:
    """A few bytes that declare an image of any size."""
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + start + pixels + png_chunk(b"IEND", b"")


def test_too_large_is_told_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(), "PNG")
    assert decode_image(data, 37 * 23).shape == (23, 37, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DecodeError, match="37 x 23 pixels, the limit is 850") as caught:
        decode_image(data, 37 * 23 - 1)
    assert caught.value.status is SampleStatus.too_large
    for width, height in ((40_000, 40_000), (10_000, 9_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(DecodeError) as caught:
            decode_image(png_of(width, height), 1_000_000)
        assert caught.value.status is SampleStatus.too_large


def test_pillows_own_limit_gives_way_to_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encode(picture(), "PNG")
    for limit in (99, 850):
        with pytest.raises(DecodeError, match=rf"{limit} in all \(input.max_pixels\)") as caught:
            decode_image(data, limit)
        assert caught.value.status is SampleStatus.too_large
    assert decode_image(data, 851).shape == (23, 37, 3)


def test_pillow_is_asked_where_opencv_fails_and_lack_of_memory_is_no_fault_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure = cv2.error("assertion")

    def fails(*_: object) -> None:
        raise failure

    monkeypatch.setattr(cv2, "imdecode", fails)
    failure.code = cv2.Error.StsAssert
    data = encode(picture(), "PNG")
    assert furthest(decode_image(data, LIMIT), np.asarray(picture())) == 0
    with pytest.raises(DecodeError, match="cut, damaged"):
        decode_image(data[: len(data) // 2], LIMIT)
    failure.code = cv2.Error.StsNoMem
    with pytest.raises(MemoryError):
        decode_image(data, LIMIT)


# How each kind of file is decoded with so many MiB of address space left.
SHORT_OF_MEMORY = """
import io, json, resource, sys
import numpy as np
from PIL import Image
from cambox.sources.decode import decode_image

grain = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
files = {}
for kind in sys.argv[1].split(","):
    buffer = io.BytesIO()
    side = 1000 if kind == "AVIF" else 2400
    quick = {"speed": 10, "method": 0, "compress_level": 1}
    Image.fromarray(grain).resize((side, side)).save(buffer, kind, **quick)
    files[kind] = buffer.getvalue()
outcomes = {}
for left in (0, 16, 500):
    for kind, data in files.items():
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (left << 20), -1))
        try:
            outcome = str(decode_image(data, 10**8).shape)
        except Exception as error:
            outcome = repr(error)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        outcomes.setdefault(kind, []).append(outcome)
print(json.dumps(outcomes))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_sound_image_is_never_unreadable_for_lack_of_memory() -> None:
    kinds = "JPEG,PNG,WEBP,TIFF,BMP,AVIF"
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, kinds],
        # What is given back is given back to the system, and not kept for the next.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    outcomes = json.loads(done.stdout)
    assert sorted(outcomes) == sorted(kinds.split(","))
    for kind, found in outcomes.items():
        assert found[-1] in ("(1000, 1000, 3)", "(2400, 2400, 3)"), kind
        for outcome in found:
            assert outcome == found[-1] or "Memory" in outcome, kind
    # The limits did bite.
    assert sum("Memory" in found[0] for found in outcomes.values()) > 2, outcomes


@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP"]), st.data())
@settings(max_examples=150, deadline=None)
def test_noise_gives_an_image_or_a_decode_error(kind: str, draw: st.DataObject) -> None:
    data = bytearray(encode(picture(), kind))
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    pixels = pixels_or_error(bytes(data), 1_000_000)
    if isinstance(pixels, DecodeError):
        assert str(pixels)
    else:
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.dtype == np.uint8


def test_cut_files_leave_the_terminal_alone() -> None:
    program = (
        "import sys; from cambox.sources.decode import *\n"
        "for data in (bytes.fromhex(line) for line in sys.stdin.read().split()):\n"
        "    try: decode_image(data, 10**9)\n"
        "    except DecodeError: pass\n"
    )
    jpeg = encode(picture(), "JPEG")
    png = encode(picture(), "PNG")
    data = [jpeg[: len(jpeg) // 2], png_of(9500, 9500)[:60], b"GIF89a", jpeg[:-2]]
    data += [png[: len(png) // 2], png[:-13], png[:-3]]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(item.hex() for item in data),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stderr == ""
    assert done.stdout == ""


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DecodeError(SampleStatus.too_large, "why")))
    assert (error.status, str(error)) == (SampleStatus.too_large, "why")
    assert f"{SampleStatus.no_image}" == "no_image"
