"""What image libraries print by themselves is counted; all else reaches standard error."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PROGRAM = """
import os, sys
from cambox.codec_messages import codec_messages_counted
from cambox.sources.decode import DecodeError, decode_image
before = sys.stderr
with codec_messages_counted():
    print("of Python", file=sys.stderr)
    for path in sys.argv[1:]:
        try:
            decode_image(open(path, "rb").read(), 1000000)
        except DecodeError as error:
            print("refused:", path, file=sys.stderr)
    os.write(2, b"libpng is what we wait for\\n")
    os.system("echo of a child >&2")
    os.write(2, b"half a line")
assert sys.stderr is before
os.write(2, b"; after it\\n")
"""


def pictures(folder: Path) -> list[str]:
    """A PNG whose data do not add up, and a JPEG with bytes that belong to nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    assert jpeg.count(b"\xff\xd1") == 1
    data = bytearray(png.getvalue())
    place = data.index(b"IDAT")
    length = int.from_bytes(data[place - 4 : place], "big")
    data[place + 4 + length - 1] ^= 1  # of the checksum of what is packed
    data[place + 4 + length : place + 8 + length] = zlib.crc32(
        data[place : place + 4 + length]
    ).to_bytes(4, "big")
    (folder / "a.png").write_bytes(data)
    (folder / "b.jpg").write_bytes(jpeg.replace(b"\xff\xd1", b"\x12\x34\x56\xff\xd1"))
    return [str(folder / name) for name in ("a.png", "b.jpg")]


def test_lines_of_codecs_are_counted_and_all_others_pass(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    plain = PROGRAM.replace("with codec_messages_counted():", "if True:")
    loud = subprocess.run(
        [sys.executable, "-c", plain, *files], capture_output=True, text=True, check=True
    ).stderr.splitlines()
    others = ("of Python", "refused:", "libpng is", "of a child", "half a line; after it")
    theirs = [line for line in loud if not line.startswith(others)]
    assert any(line.startswith("libpng") for line in theirs)
    assert any(line.startswith("Corrupt JPEG") for line in theirs)

    quiet = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files], capture_output=True, text=True, check=True
    ).stderr.splitlines()
    (said,) = [line for line in quiet if line.startswith("half a line")]
    expected = f"half a linecambox: {len(theirs)} messages of image libraries, the first: "
    assert said.startswith(expected + repr(theirs[0]))
    quiet.remove(said)
    assert quiet.pop() == "; after it"
    assert sorted(quiet) == sorted(set(loud) - set(theirs) - {"half a line; after it"})
