"""Damaged images: each is decoded or given a status, no process dies, memory stays bounded."""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from bench.common import To, in_a_process, peak_resident, reset_peak, write_figures
from bench.small_pictures import pictures
from cambox.config import InputSettings
from cambox.sources.load import LoadRule, load_sample
from cambox.sources.samples import Sample
from cambox.threads import keep_freed_memory

COUNT = 25_400
MAX_PIXELS = 1 << 21
"""So that what is allowed for an image, 24 bytes a pixel and 64 MiB, is well below 200 MiB."""
THREADS = 2
A_PROCESS = 2540
# More than any image may take: what goes beyond raises, and is counted.
ROOM = 4 << 30
SECONDS_TO_HANG = 60.0
EDGES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FF00, 0xFFFF_FFFF)


@dataclass
class Found:
    """What became of mutated images.

    Attributes:
        statuses: how many of each.
        exceptions: what was raised, by the image's number; a status is none.
        crashes: the numbers of images at which the process died or hung.
        growth, largest: the most bytes that a process with two images at work held above those of
            its start, and the number of the first of the two.
        seconds, slowest: the longest that two took, and the number of the first.
        printed: lines that libraries wrote to standard error.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    exceptions: dict[int, str] = field(default_factory=dict)
    crashes: list[int] = field(default_factory=list)
    growth: int = 0
    largest: int = 0
    seconds: float = 0.0
    slowest: int = 0
    printed: int = 0

    def add(self, other: Found) -> None:
        """Those of other images, too."""
        self.statuses += other.statuses
        self.exceptions |= other.exceptions
        self.crashes += other.crashes
        self.printed += other.printed
        if other.growth > self.growth:
            self.growth, self.largest = other.growth, other.largest
        if other.seconds > self.seconds:
            self.seconds, self.slowest = other.seconds, other.slowest


def mutations(
    count: Annotated[int, typer.Option(min=1)] = COUNT,
    seed: int = 0,
    max_pixels: Annotated[int, typer.Option(help="input.max_pixels")] = MAX_PIXELS,
    to: To = None,
) -> None:
    """Decode small images of all kinds, mutated, and say what became of them and of the memory."""
    console = Console()
    found = Found()
    for start in range(0, count, A_PROCESS):
        numbers = range(start, min(start + A_PROCESS, count))
        found.add(outcomes(numbers, seed, max_pixels))
        write_figures(vars(found), to)
    console.print(
        f"{count} mutations: {dict(found.statuses)}; {len(found.exceptions)} other exceptions; "
        f"{len(found.crashes)} crashes; {found.growth / 2**20:.0f} MiB more at the peak "
        f"({named(found.largest, seed, THREADS)}); {found.seconds:.2f} s the slowest two "
        f"({named(found.slowest, seed, THREADS)}); {found.printed} lines printed by libraries"
    )
    for number, error in found.exceptions.items():
        console.print(f"raised by {named(number, seed)}: {error}", markup=False)
    for number in found.crashes:
        console.print(f"the process died of {named(number, seed)}", markup=False)


def outcomes(numbers: Sequence[int], seed: int, max_pixels: int) -> Found:
    """Decode mutations by their numbers in a process of its own; one that kills it is searched for.

    Those of two that only kill it together are crashes both.
    """
    try:
        return in_a_process(decode_all, numbers, seed, max_pixels)
    except BrokenProcessPool:
        if len(numbers) <= THREADS:
            return Found(crashes=list(numbers))
    # In whole pairs, as they were decoded.
    middle = THREADS * -(-len(numbers) // (2 * THREADS))
    found = outcomes(numbers[:middle], seed, max_pixels)
    found.add(outcomes(numbers[middle:], seed, max_pixels))
    return found


def decode_all(numbers: Sequence[int], seed: int, max_pixels: int) -> Found:
    """Decode mutations as a worker does, two at a time; meant for a process of its own."""
    whole = pictures()
    settings = InputSettings(shards=["none"], max_pixels=max_pixels)
    rule = LoadRule(settings, 64, 64, None, labels_wanted=False)
    keep_freed_memory()
    found = Found()

    def decode(number: int, data: bytes) -> None:
        try:
            loaded = load_sample(Sample(str(number), 0, {"jpg": data}, "jpg"), rule)
        except Exception as error:  # noqa: BLE001  it is what is counted
            found.exceptions[number] = f"{type(error).__name__}: {error}"
        else:
            found.statuses[str(loaded.status)] += 1

    with tempfile.TemporaryFile() as printed, ThreadPoolExecutor(THREADS) as pool:
        os.dup2(printed.fileno(), 2)
        # What is loaded with the first of each kind is no image's.
        list(pool.map(decode, range(-len(whole), 0), whole.values()))
        found = Found()
        base = reset_peak()
        resource.setrlimit(resource.RLIMIT_AS, (_virtual() + ROOM, resource.RLIM_INFINITY))
        for start in range(0, len(numbers), THREADS):
            two = numbers[start : start + THREADS]
            files = [mutation(number, seed, whole)[1] for number in two]
            reset_peak()
            # As a worker that hangs ends: a clock that no library holds up.
            faulthandler.dump_traceback_later(SECONDS_TO_HANG, exit=True)
            begun = time.perf_counter()
            list(pool.map(decode, two, files))
            seconds = time.perf_counter() - begun
            faulthandler.cancel_dump_traceback_later()
            found.add(
                Found(
                    growth=peak_resident() - base,
                    largest=two[0],
                    seconds=seconds,
                    slowest=two[0],
                )
            )
        found.printed = Path(f"/proc/self/fd/{printed.fileno()}").read_bytes().count(b"\n")
    return found


def mutation(number: int, seed: int, whole: dict[str, bytes]) -> tuple[str, bytes]:
    """The mutated image of a number: what it is, and its bytes."""
    chance = random.Random(f"{seed} {number}")
    name, other = chance.choice(list(whole)), chance.choice(list(whole))
    way = chance.choice(list(WAYS))
    data = bytearray(whole[name])
    # Damage comes seldom alone.
    for _ in range(chance.choice((1, 1, 2))):
        WAYS[way](data, chance, whole[other])
    if chance.random() < 0.5:
        _mend_checksums(data)
    return f"{name}, {way}" + (f" with {other}" if way == "splice" else ""), bytes(data)


def named(first: int, seed: int, count: int = 1) -> str:
    """Mutations, for a person."""
    whole = pictures()
    numbers = range(first, first + count)
    return " beside ".join(f"{number}: {mutation(number, seed, whole)[0]}" for number in numbers)


def _flip(data: bytearray, chance: random.Random, _: bytes) -> None:
    for _bit in range(chance.choice((1, 1, 2, 8))):
        place = _place(data, chance)
        if place < len(data):
            data[place] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random, _: bytes) -> None:
    place, length = _place(data, chance), chance.randrange(1, 33)
    fill = chance.choice((b"\0", b"\xff", None))
    data[place : place + length] = chance.randbytes(length) if fill is None else fill * length


def _length(data: bytearray, chance: random.Random, _: bytes) -> None:
    """A number of the file, of one, two or four bytes, is set to an edge or changed a little."""
    place, size = _place(data, chance), chance.choice((1, 2, 4))
    order: Literal["big", "little"] = chance.choice(("big", "little"))
    before = int.from_bytes(data[place : place + size], order)
    near = (before + 1, before - 1, 2 * before, before // 2, chance.getrandbits(32))
    value = chance.choice((*near, *EDGES)) % (1 << 8 * size)
    data[place : place + size] = value.to_bytes(size, order)


def _cut(data: bytearray, chance: random.Random, _: bytes) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _remove(data: bytearray, chance: random.Random, _: bytes) -> None:
    place = _place(data, chance)
    del data[place : place + chance.randrange(1, 1 + max(1, len(data) // 4))]


def _double(data: bytearray, chance: random.Random, _: bytes) -> None:
    place = _place(data, chance)
    chunk = data[place : place + chance.randrange(1, 1 + max(1, len(data) // 4))]
    data[place:place] = chunk * chance.choice((1, 1, 50))


def _splice(data: bytearray, chance: random.Random, other: bytes) -> None:
    data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other)) :]


WAYS: dict[str, Callable[[bytearray, random.Random, bytes], None]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "length": _length,
    "cut": _cut,
    "remove": _remove,
    "double": _double,
    "splice": _splice,
}


def _mend_checksums(data: bytearray) -> None:
    """Those of a PNG's chunks, as far as they can be followed: most damage is else seen by them."""
    start = 8
    while data.startswith(b"\x89PNG") and start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[start + 4 : end]))
        start = end + 4


def _place(data: bytearray, chance: random.Random) -> int:
    """Anywhere, half the time where headers are."""
    within = len(data) if chance.random() < 0.5 else min(len(data), 128)
    return chance.randrange(within) if within else 0


def _virtual() -> int:
    """The size of this process's address space, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
