"""Whether the workers of a cluster make the same rows as each other, of the built-in pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cambox.canary.rows import Canary


@dataclass(frozen=True)
class Made:
    """What one process made of the pictures.

    Attributes:
        where: it runs, in words.
        kind: of its device; those of one kind compute alike, but for rounding.
        canary: None where memory did not do for the pictures.
        versions: of the libraries.
    """

    where: str
    kind: str
    canary: Canary | None
    versions: Mapping[str, str]


class Alike:
    """Compares each worker with the driver, and with the first one whose device is of its kind.

    A driver on a CPU tells of a worker on a GPU only whether its pixels are the same; what its
    network gives only another GPU of that kind can tell.
    """

    def __init__(self, driver: Made) -> None:
        self._driver = driver
        self._first: dict[str, Made] = {}

    def difference(self, worker: Made) -> str | None:
        """What a worker that is ready makes otherwise than those before it; None: nothing."""
        if worker.canary is None:
            return None
        for before in (self._driver, self._first.get(worker.kind)):
            if before is None or before.canary is None:
                continue
            found = before.canary.difference(worker.canary)
            if found is not None:
                return (
                    f"the worker of {worker.where} makes other rows than {before.where}: {found} "
                    f"({_versions(before.versions, worker.versions)}); see that all nodes have the "
                    "same versions of the libraries"
                )
        self._first.setdefault(worker.kind, worker)
        return None


def _versions(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which libraries are others, the first's version before the second's."""
    changed = [
        f"{name} {before.get(name, 'none')} there and {now.get(name, 'none')} here"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return ", ".join(changed) or "the libraries have the same versions; so it is the machine"
