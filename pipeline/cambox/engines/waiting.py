"""Workers that wait for their place in a cluster: for how long, and what is said meanwhile.

Ray itself waits for ever and without a word, as a cluster may grow: for GPUs that others use, for a
node that was lost, and for more of a node than any has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cambox.console import counted
from cambox.engines.sizing import Size, resources_in_words

PATIENCE_SECONDS = 30.0
# A worker has its place when its process has imported the libraries, which may come from a slow
# disk. Then its node is busy with others, or gone, and another one may have room.
ELSEWHERE_SECONDS = 120.0
REMEDY = (
    "ask for less (engine.gpus_per_worker, engine.cpus_per_worker), raise engine.wait_seconds, or "
    "run it again when there is room"
)


class Waiting:
    """When to say that workers are missing, and when to end a run that has not a single one.

    Args:
        limit: seconds that a run waits for its first place, and for another when it has none left.
        now: the time of its start, in seconds on any clock.
    """

    def __init__(self, limit: float, now: float, patience: float = PATIENCE_SECONDS) -> None:
        self._limit = limit
        self._first_patience = self._patience = patience
        self._all_there = self._had_one = now

    def look(self, placed: int, missing: int, now: float) -> Literal["go on", "tell", "end"]:
        """What to do now, with so many workers that have a place, and that are not ready yet."""
        if placed:
            self._had_one = now
        if not missing:
            self._all_there, self._patience = now, self._first_patience
            return "go on"
        if self._left(now) <= 0:
            return "end"
        if now - self._all_there > self._patience:
            # Less and less often: the others go on.
            self._all_there, self._patience = now, 2 * self._patience
            return "tell"
        return "go on"

    def ends(self, placed: int, now: float) -> str:
        """When the run ends, where nothing changes."""
        return "" if placed else f"; the run ends in {self._left(now):.0f} s if none finds a place"

    @property
    def ended(self) -> str:
        """Why it did."""
        return f"none found a place for engine.wait_seconds, {self._limit:g} s"

    def _left(self, now: float) -> float:
        return self._limit - (now - self._had_one)


def who_is_missing(
    without: Sequence[Size],
    loading: int,
    nodes: Sequence[Mapping[str, Any]],
    available: Mapping[str, float],
) -> str:
    """Which workers are not ready, and what the cluster has for those that have no place.

    Args:
        without: what each of these asks for.
        loading: those that have one, and load their model.
        nodes, available: see ``cluster_in_words``.
    """
    asked = [f"{counted(count, 'worker')} of {size}" for size, count in Counter(without).items()]
    if loading:
        asked.append(f"{counted(loading, 'worker')} to load the model")
    return f"{', '.join(asked)}; {cluster_in_words(nodes, available)}"


def cluster_in_words(nodes: Sequence[Mapping[str, Any]], available: Mapping[str, float]) -> str:
    """What a cluster consists of, nodes that are alike counted together, and what is free of it.

    Args:
        nodes: as ``ray.nodes()`` gives them.
        available: as ``ray.available_resources()`` gives them.
    """
    kinds = Counter(resources_in_words(node["Resources"]) for node in nodes if node["Alive"])
    there = ", ".join(f"{counted(count, 'node')} of {kind}" for kind, count in kinds.items())
    return (
        f"the cluster has {there or 'no node'}, of which {resources_in_words(available)} are free"
    )
