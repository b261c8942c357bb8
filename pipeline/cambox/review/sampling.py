"""Which rows of an output to look at: the same for the same seed, whoever asks and in what order.

A row's turn depends on the seed, its shard's URI and its place in the shard, and on nothing else,
so two recipes over the same shards are sampled at the same images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cambox.sources.shards import Shard


@dataclass(frozen=True)
class ShardRows:
    """The rows of one published file.

    Attributes:
        path: of the file.
        shard: as the file's footer describes it.
    """

    path: str
    shard: Shard
    rows: int


def row_turns(seed: int, shard_uri: str, rows: int) -> np.ndarray:
    """(rows,) uint64, evenly spread: the rows with the smallest are looked at first."""
    key = hashlib.sha256(f"{seed}\n{shard_uri}".encode()).digest()[:16]
    turns: np.ndarray = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(rows)
    return turns


def choose_shards(files: Sequence[ShardRows], most: int, seed: int) -> list[ShardRows]:
    """At most so many files, each the likelier the more rows it has.

    Every shard that is looked into costs a read from its start, so a sample of a thousand images
    must not come from a thousand shards.
    """

    def turn(file: ShardRows) -> float:
        # Efraimidis and Spirakis: the largest u^(1/weight) are a sample in proportion to weight.
        u = (float(row_turns(seed, f"shard {file.shard.uri}", 1)[0]) + 1.0) / 2.0**64
        return float(np.log(u)) / file.rows

    full = [file for file in files if file.rows]
    return sorted(full, key=lambda file: (turn(file), file.shard.uri), reverse=True)[:most]


def choose_rows(files: Sequence[ShardRows], count: int, seed: int) -> dict[str, list[int]]:
    """The places of ``count`` rows (all, where there are fewer), by the path of their file."""
    first = FirstRows(count)
    for file in files:
        first.offer(file.path, np.arange(file.rows), row_turns(seed, file.shard.uri, file.rows))
    return first.places()


class FirstRows:
    """The ``count`` rows whose turn comes first, of all that are offered; memory is constant."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._paths: list[str] = []
        self._file = np.zeros(0, np.int64)
        self._place = np.zeros(0, np.int64)
        self._turn = np.zeros(0, np.uint64)

    def offer(self, path: str, places: np.ndarray, turns: np.ndarray) -> None:
        """Rows of one file.

        Args:
            places, turns: (n,) of each row.
        """
        if not len(places):
            return
        self._paths.append(path)
        file = np.concatenate([self._file, np.full(len(places), len(self._paths) - 1)])
        place = np.concatenate([self._place, places])
        turn = np.concatenate([self._turn, turns])
        order = np.argsort(turn, kind="stable")[: self._count]
        self._turn, self._place = turn[order], place[order]
        # Only the paths that are still wanted are kept.
        kept, self._file = np.unique(file[order], return_inverse=True)
        self._paths = [self._paths[index] for index in kept]

    def places(self) -> dict[str, list[int]]:
        """By path, in ascending order."""
        return {
            path: sorted(self._place[self._file == index].tolist())
            for index, path in enumerate(self._paths)
        }
