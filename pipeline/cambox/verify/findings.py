"""What a check of the output found: problems, each under the name of the check that found it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

FileCheck = Literal["unreadable", "schema", "footer", "recipe", "name", "duplicate", "statistics"]
FolderCheck = Literal["leftover", "foreign", "manifest"]
RowCheck = Literal["shard", "sample_index", "key", "status", "error", "size"]
EntryCheck = Literal[
    "null", "class", "rank", "probability", "score", "box", "component", "map", "features"
]
InputCheck = Literal["input gone", "input unreadable", "input changed", "input samples"]
Check = FileCheck | FolderCheck | RowCheck | EntryCheck | InputCheck
"""What is checked; it starts the text of a problem."""


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
        self._found: dict[Check, tuple[str, int]] = {}

    def add(self, check: Check, text: str, count: int = 1) -> None:
        """Something wrong, at so many places; the text is of the first."""
        first, before = self._found.get(check, (text, 0))
        self._found[check] = (first, before + count)

    def add_where(self, check: Check, wrong: np.ndarray, text: Callable[[int], str]) -> None:
        """A problem at each place that is wrong.

        Args:
            wrong: (n,) bool.
            text: describes one place, 0..n-1.
        """
        places = np.flatnonzero(wrong)
        if places.size:
            self.add(check, text(int(places[0])), places.size)

    def problems(self) -> list[Problem]:
        """The problems, in the order in which they were found first."""
        return [
            Problem.of(self.file, check, f"{first} (and {count - 1} more)" if count > 1 else first)
            for check, (first, count) in self._found.items()
        ]
