"""How many workers of which size a cluster holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cambox.config import EngineSettings

CPUS_OF_A_CPU_WORKER = 4
# Workers of one size leave CPUs over; smaller ones are taken where more than a quarter would be.
WORTH_USING = 0.75
# Quotients of fractions come out a little low.
ROUNDING = 1e-6
NO_LIMIT = 2**31


@dataclass(frozen=True)
class Pool:
    """The workers of a run.

    Attributes:
        gpus_per_worker, cpus_per_worker: what each asks the cluster for.
        threads: what each computes and decodes with.
    """

    workers: int
    gpus_per_worker: float
    cpus_per_worker: float
    threads: int


def size_pool(
    settings: EngineSettings,
    nodes: Sequence[Mapping[str, Any]],
    available: Mapping[str, float],
) -> Pool:
    """Fit the pool to the cluster, so that there is a node for every worker.

    On a cluster with GPUs each worker gets one, and as many CPUs as the node with the fewest for
    each GPU has, because an actor that asks for a GPU alone gets a single CPU thread to decode
    with. Without GPUs a worker gets up to four CPUs.

    Where more workers are asked for than there are GPUs, the others wait for new nodes.

    Args:
        nodes: as ``ray.nodes()`` gives them.
        available: as ``ray.available_resources()`` gives them.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    free = available.get("CPU", 0.0)
    gpus_each = settings.gpus_per_worker
    if gpus_each == "auto":
        gpus_each = 1.0 if any(node.get("GPU", 0.0) >= 1 for node in alive) else 0.0
    # Of each node, the workers that its GPUs are enough for, and its CPUs.
    places = [(_by_gpus(node.get("GPU", 0.0), gpus_each), node.get("CPU", 0.0)) for node in alive]
    most = max((int(cpus) for _, cpus in places), default=0)
    if gpus_each:
        places = _less_what_is_taken(places, free)
    on_gpus = sum(workers for workers, _ in places)

    def held(cpus_each: float) -> int:
        """Workers of that size that find a node."""
        each = [min(workers, int(cpus / cpus_each + ROUNDING)) for workers, cpus in places]
        return min(sum(each), int(free / cpus_each + ROUNDING))

    cpus_asked = None if settings.cpus_per_worker == "auto" else settings.cpus_per_worker
    if settings.workers != "auto":
        workers = settings.workers
    elif cpus_asked is not None:
        workers = max(1, held(cpus_asked))
    elif gpus_each:
        workers = max(1, on_gpus)
    else:
        sizes = range(CPUS_OF_A_CPU_WORKER, 0, -1)
        enough = (held(size) for size in sizes if held(size) * size >= WORTH_USING * free)
        workers = max(1, next(enough, 1))
    if cpus_asked is not None:
        return Pool(workers, gpus_each, float(cpus_asked), cpus_asked)
    if not gpus_each:
        most = min(most, CPUS_OF_A_CPU_WORKER)
    wanted = min(workers, on_gpus)
    # The most first; less than one as hundredths.
    shares = [*range(most, 0, -1), *(hundredths / 100 for hundredths in range(99, 0, -1))]
    cpus_each = float(next((cpus for cpus in shares if held(cpus) >= wanted), 0.0))
    return Pool(workers, gpus_each, cpus_each, max(1, int(cpus_each)))


def _by_gpus(gpus: float, each: float) -> int:
    """Workers that a node's GPUs are enough for; a share of a GPU is of one and the same."""
    if not each:
        return NO_LIMIT
    return int(gpus) * int(1 / each + ROUNDING) if each < 1 else int(gpus / each)


def _less_what_is_taken(
    places: Sequence[tuple[int, float]], free: float
) -> list[tuple[int, float]]:
    """The nodes with GPUs, and what is left of their CPUs.

    Ray tells what is taken of all nodes together. What asks for no GPU it puts on nodes without one
    while those have room. Of the rest it is unknown where it lies, so it is thought away from each
    node; but no more than half of one, as where others use much it does not lie on a single node.
    """
    taken = sum(cpus for _, cpus in places) - free
    taken -= sum(cpus for workers, cpus in places if not workers)
    return [(workers, cpus - min(max(taken, 0.0), cpus / 2)) for workers, cpus in places if workers]
