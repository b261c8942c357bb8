"""Which rows of an output to look at, and their pictures, read again from the shards.

The rows are the same for the same seed, whoever asks and in what order: a row's turn depends on the
seed, its shard's URI and its place in the shard, and on nothing else, so two recipes over the same
shards are sampled at the same images.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cambox.console import one_line
from cambox.errors import RequestError, ShardError
from cambox.output.published_file import PublishedFile
from cambox.sources.decode import DecodeError, decode_image
from cambox.sources.samples import ImageRule, Sample, most_in_a_sample, read_samples
from cambox.sources.shards import Shard
from cambox.sources.states import state_of


def row_turns(seed: int, shard_uri: str, rows: int) -> np.ndarray:
    """(rows,) uint64, evenly spread: the rows with the smallest are looked at first."""
    key = hashlib.sha256(f"{seed}\n{shard_uri}".encode()).digest()[:16]
    turns: np.ndarray = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(rows)
    return turns


def choose_shards(files: Sequence[PublishedFile], most: int, seed: int) -> list[PublishedFile]:
    """At most so many files, each the likelier the more rows it has.

    Every shard that is looked into costs a read from its start, so a sample of a thousand images
    must not come from a thousand shards.
    """

    def turn(file: PublishedFile) -> float:
        # Efraimidis and Spirakis: the largest u^(1/weight) are a sample in proportion to weight.
        u = (float(row_turns(seed, f"shard {file.shard.uri}", 1)[0]) + 1.0) / 2.0**64
        return float(np.log(u)) / file.rows

    full = [file for file in files if file.rows]
    return sorted(full, key=lambda file: (turn(file), file.shard.uri), reverse=True)[:most]


def choose_rows(files: Sequence[PublishedFile], count: int, seed: int) -> dict[str, list[int]]:
    """The places of ``count`` rows (all, where there are fewer), by the URI of their file."""
    return first_rows(((file, np.arange(file.rows)) for file in files), count, seed)


def first_rows(
    offered: Iterable[tuple[PublishedFile, np.ndarray]], count: int, seed: int
) -> dict[str, list[int]]:
    """The ``count`` rows whose turn comes first; memory is constant.

    Args:
        offered: files, and the places of (n,) of their rows.

    Returns:
        The places, in ascending order, by the URI of their file.
    """
    first: list[tuple[int, str, int]] = []
    for file, places in offered:
        turns = row_turns(seed, file.shard.uri, file.rows)[places]
        order = np.argsort(turns, kind="stable")[:count]
        entries = zip(turns[order].tolist(), places[order].tolist(), strict=True)
        first = heapq.nsmallest(count, [*first, *((turn, file.uri, at) for turn, at in entries)])
    chosen: dict[str, list[int]] = {}
    for _, uri, place in sorted(first, key=lambda entry: entry[2]):
        chosen.setdefault(uri, []).append(place)
    return chosen


@dataclass(frozen=True)
class ShownPicture:
    """A picture, or why there is none.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright; None where there is none.
        problem: one line, None where there is a picture.
    """

    key: str
    pixels: np.ndarray | None
    problem: str | None


def read_pictures(
    shard: Shard, sizes: Mapping[str, tuple[int, int]], max_pixels: int, rule: ImageRule
) -> Iterator[ShownPicture]:
    """The pictures of some samples of a shard, each once; read no further than the last of them.

    A picture whose size is not that of its row is another picture than the boxes are of.

    Args:
        shard: as a footer describes it.
        sizes: width and height in pixels that the row of each wanted sample says, by key.
        max_pixels, rule: of the recipe.
    """
    missing = dict(sizes)
    problem = "the shard has no sample of this key any more"
    try:
        bound = most_in_a_sample(shard)
        for sample in read_samples(shard, max_sample_bytes=bound, rule=rule):
            if sample.key in missing:
                size = missing.pop(sample.key)
                pixels, why = _pixels(sample, size, max_pixels)
                yield ShownPicture(sample.key, pixels, why)
            if not missing:
                return
    except (OSError, RequestError, ShardError) as error:
        problem = f"the shard cannot be read: {one_line(error)}"
    for key in missing:
        yield ShownPicture(key, None, problem)


def has_changed(shard: Shard) -> bool:
    """Whether the storage has another state of the shard now; False where it cannot be asked."""
    try:
        return state_of(shard) == "changed"
    except (OSError, RequestError):
        # Reading it says so, too, and better.
        return False


def _pixels(
    sample: Sample, size: tuple[int, int], max_pixels: int
) -> tuple[np.ndarray | None, str | None]:
    """The image of a sample, or why there is none."""
    if sample.image is None:
        return None, "the sample has no image any more"
    try:
        pixels = decode_image(sample.members[sample.image], max_pixels)
    except DecodeError as error:
        return None, str(error)
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels, None
    return None, (
        f"the shard now has an image of {width} x {height} pixels here, and the row is of one "
        f"of {size[0]} x {size[1]}"
    )


def webp(pixels: np.ndarray, most_bytes: int) -> bytes:
    """The picture as a WebP file of at most so many bytes.

    Of lower quality where it would be larger, and half the size where that is not enough.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        most_bytes: from 100.
    """
    for quality in (70, 55, 40, 25, 15):
        settings = [cv2.IMWRITE_WEBP_QUALITY, quality]
        _, encoded = cv2.imencode(".webp", np.ascontiguousarray(pixels[:, :, ::-1]), settings)
        if len(encoded) <= most_bytes:
            return encoded.tobytes()
    height, width = pixels.shape[:2]
    half = max(1, width // 2), max(1, height // 2)
    return webp(np.asarray(cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)), most_bytes)
