"""What a check of the output found: problems, each under the name of the check that found it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


class Check(enum.StrEnum):
    """What is checked; the value starts the text of a problem."""

    unreadable = "unreadable"
    schema = "schema"
    footer = "footer"
    recipe = "recipe"
    name = "name"
    duplicate = "duplicate"
    leftover = "leftover"
    foreign = "foreign"
    shard = "shard"
    sample_index = "sample_index"
    key = "key"
    status = "status"
    error = "error"
    size = "size"
    null = "null"
    class_id = "class"
    rank = "rank"
    probability = "probability"
    score = "score"
    box = "box"
    component = "component"
    map = "map"
    input_gone = "input gone"
    input_unreadable = "input unreadable"
    input_changed = "input changed"
    input_samples = "input samples"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file.

    Attributes:
        file: its URI.
        what: the name of the check, a colon, and what is wrong; one line.
    """

    file: str
    what: str

    @classmethod
    def of(cls, file: str, check: Check, text: str) -> Problem:
        """A problem that a check found."""
        return cls(file, f"{check}: {' '.join(text.split())}")

    @property
    def kind(self) -> str:
        """The name of the check."""
        return self.what.partition(":")[0]


class Findings:
    """The problems of one file: one for each check, with its first example and a count."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._first: dict[Check, str] = {}
        self._count: dict[Check, int] = {}

    def add(self, check: Check, text: str) -> None:
        """One problem."""
        self._first.setdefault(check, text)
        self._count[check] = self._count.get(check, 0) + 1

    def add_where(self, check: Check, wrong: np.ndarray, text: Callable[[int], str]) -> None:
        """A problem at each place that is wrong.

        Args:
            wrong: (n,) bool.
            text: describes one place, 0..n-1.
        """
        places = np.flatnonzero(wrong)
        if places.size:
            self.add(check, text(int(places[0])))
            self._count[check] += places.size - 1

    def problems(self) -> list[Problem]:
        """The problems, in the order in which they were found first."""
        return [
            Problem.of(self.file, check, f"{first} (and {self._count[check] - 1} more)")
            if self._count[check] > 1
            else Problem.of(self.file, check, first)
            for check, first in self._first.items()
        ]
