"""How many workers of which size a cluster holds, and on which of its nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cambox.config import EngineSettings

# The threads of one process wait for the interpreter's lock: on an H200 with 16 CPUs one worker
# left the GPU idle, and eight were two to four times as fast (docs/speed.md). More were not tried.
CPUS_OF_A_GPU_WORKER = 2
MOST_ON_A_GPU = 8
# Of a node's. A worker held 2.4 to 3.6 GiB there.
BYTES_OF_A_GPU_WORKER = 4 << 30
CPUS_OF_A_CPU_WORKER = 4
# Workers of one size leave CPUs over; smaller ones are taken where more than a quarter would be.
WORTH_USING = 0.75
# Quotients of fractions come out a little low.
ROUNDING = 1e-6
NO_LIMIT = 2**31
# Of a resource; Ray rounds to them, and six times a sixth would be more than there is.
RAYS_UNITS = 10_000


@dataclass(frozen=True)
class Size:
    """What a worker asks the cluster for, and the threads that it computes and decodes with."""

    gpus: float
    cpus: float
    threads: int

    def __str__(self) -> str:
        return resources_in_words({"CPU": self.cpus, "GPU": self.gpus})


@dataclass(frozen=True)
class Place:
    """Where a worker goes; ``node`` is the id of the one that it was sized for, None is any."""

    size: Size
    node: str | None = None


@dataclass(frozen=True)
class Pool:
    """The workers of a run.

    Attributes:
        places: of each, the largest first.
        spare: the size of one that has lost its node, or waits for a new one: the smallest.
    """

    places: tuple[Place, ...]
    spare: Size

    @classmethod
    def of_one_size(cls, workers: int, gpus: float, cpus: float, threads: int) -> Pool:
        """Workers that are alike: any node does that has room."""
        size = Size(gpus, cpus, threads)
        return cls((Place(size),) * workers, size)

    def again(self, place: Place, nodes: Sequence[Mapping[str, Any]]) -> Place:
        """Where to start a worker anew: in its place, or anywhere where its node is gone."""
        there = {node["NodeID"] for node in nodes if node["Alive"]}
        return place if place.node is None or place.node in there else Place(self.spare)


class _Node(NamedTuple):
    """``gpus_each`` is what a worker on it takes of its GPUs."""

    name: str
    gpus: float
    gpus_each: float
    cpus: float
    memory: float

    @property
    def workers(self) -> int:
        """Those that its GPUs are enough for."""
        return _by_gpus(self.gpus, self.gpus_each)


def workers_on_a_gpu(
    cpus: float, memory: float = math.inf, cpus_each: float = CPUS_OF_A_GPU_WORKER
) -> int:
    """How many share a GPU that has so many CPUs and bytes of memory beside it.

    >>> workers_on_a_gpu(16), workers_on_a_gpu(7.5), workers_on_a_gpu(1), workers_on_a_gpu(128)
    (8, 3, 1, 8)
    """
    room = min(cpus / cpus_each + ROUNDING, memory / BYTES_OF_A_GPU_WORKER, MOST_ON_A_GPU)
    return max(1, int(room))


def size_pool(
    settings: EngineSettings,
    nodes: Sequence[Mapping[str, Any]],
    available: Mapping[str, float],
) -> Pool:
    """Fit the pool to the cluster, so that there is a node for every worker.

    On a cluster with GPUs as many workers share each as its share of the node's CPUs is enough for,
    and share those CPUs, because an actor that asks for a GPU alone gets a single CPU thread to
    decode with. Where nodes differ, so do the workers, and each goes to the node that it was sized
    for. Without GPUs a worker gets up to four CPUs.

    Where a number of workers is asked for each gets a GPU of its own: Ray puts those that take a
    part of one on as few GPUs as it can.

    Where more workers are asked for than there are GPUs, the others wait for new nodes, and ask for
    no more than the smallest of those that are there. Where fewer are, or a size is given, all are
    alike.

    Args:
        nodes: as ``ray.nodes()`` gives them.
        available: as ``ray.available_resources()`` gives them.
    """
    alive = [node["Resources"] | {"id": node["NodeID"]} for node in nodes if node["Alive"]]
    free = available.get("CPU", 0.0)
    cpus_asked = None if settings.cpus_per_worker == "auto" else settings.cpus_per_worker
    asked = settings.gpus_per_worker
    with_gpus = any(node.get("GPU", 0.0) >= 1 for node in alive)
    gpus_each = float(with_gpus) if asked == "auto" else asked
    places = [
        _Node(
            *(node["id"], node.get("GPU", 0.0), gpus_each, node.get("CPU", 0.0)),
            memory=node.get("memory", math.inf),
        )
        for node in alive
    ]
    most = max((int(node.cpus) for node in places), default=0)
    if gpus_each:
        places = _less_what_is_taken(places, free)
    if gpus_each and asked == "auto" and settings.workers == "auto":
        places = [_with_shared_gpus(node, cpus_asked) for node in places]
        # That of workers that are alike.
        gpus_each = max((node.gpus_each for node in places), default=gpus_each)
    on_gpus = sum(node.workers for node in places)

    def held(cpus_each: float) -> int:
        """Workers of that size that find a node."""
        each = [min(node.workers, int(node.cpus / cpus_each + ROUNDING)) for node in places]
        return min(sum(each), int(free / cpus_each + ROUNDING))

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
        return Pool.of_one_size(workers, gpus_each, float(cpus_asked), cpus_asked)
    if gpus_each and 0 < on_gpus <= workers:
        return _sized_by_node(places, workers, free)
    if not gpus_each:
        most = min(most, CPUS_OF_A_CPU_WORKER)
    wanted = min(workers, on_gpus)
    cpus_each = next((cpus for cpus in _shares(most) if held(cpus) >= wanted), 0.0)
    return Pool.of_one_size(workers, gpus_each, cpus_each, max(1, int(cpus_each)))


def _with_shared_gpus(node: _Node, cpus_each: int | None) -> _Node:
    """A node whose GPUs are shared by as many workers as it has CPUs and memory for."""
    gpus = int(node.gpus)
    count = workers_on_a_gpu(
        node.cpus / gpus, node.memory / gpus, cpus_each or CPUS_OF_A_GPU_WORKER
    )
    return node._replace(gpus_each=RAYS_UNITS // count / RAYS_UNITS)


def _sized_by_node(nodes: Sequence[_Node], workers: int, free: float) -> Pool:
    """A worker for each place on a GPU, and the others as small as the smallest of them."""
    most = {node: _share(node.cpus / node.workers) for node in nodes}

    def needed(limit: float) -> float:
        return sum(node.workers * min(cpus, limit) for node, cpus in most.items())

    # Where others use so much that it lies on several nodes, none gets more than there is for all.
    limits = _shares(int(max(most.values())))
    limit = next((cpus for cpus in limits if needed(cpus) <= free + ROUNDING), 0.0)
    sized = []
    for node, cpus in most.items():
        cpus_each = min(cpus, limit)
        size = Size(node.gpus_each, cpus_each, max(1, int(cpus_each)))
        sized += [Place(size, node.name)] * node.workers
    sized.sort(key=lambda place: (-place.size.cpus, -place.size.gpus))
    spare = sized[-1].size
    if all(place.size == spare for place in sized):
        # Alike, so that any node does, and Ray finds it.
        return Pool((Place(spare),) * workers, spare)
    return Pool((*sized, *[Place(spare)] * (workers - len(sized))), spare)


def _shares(most: int) -> Iterator[float]:
    """The CPUs that a worker may ask for, the most first; less than one as hundredths."""
    yield from map(float, range(most, 0, -1))
    yield from (hundredths / 100 for hundredths in range(99, 0, -1))


def _share(cpus: float) -> float:
    """The most of these that a worker may ask for."""
    return float(int(cpus + ROUNDING)) if cpus >= 1 else int(100 * cpus + ROUNDING) / 100


def _by_gpus(gpus: float, each: float) -> int:
    """Workers that a node's GPUs are enough for; a share of a GPU is of one and the same."""
    if not each:
        return NO_LIMIT
    return int(gpus) * int(1 / each + ROUNDING) if each < 1 else int(gpus / each)


def _less_what_is_taken(nodes: Sequence[_Node], free: float) -> list[_Node]:
    """The nodes with GPUs, and what is left of their CPUs.

    Ray tells what is taken of all nodes together. What asks for no GPU it puts on nodes without one
    while those have room. Of the rest it is unknown where it lies, so it is thought away from each
    node; but no more than half of one, as where others use much it does not lie on a single node.
    """
    taken = sum(node.cpus for node in nodes) - free
    taken -= sum(node.cpus for node in nodes if not node.workers)
    return [
        node._replace(cpus=node.cpus - min(max(taken, 0.0), node.cpus / 2))
        for node in nodes
        if node.workers
    ]


def resources_in_words(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs, of a node or of all.

    >>> resources_in_words({"CPU": 8.0, "GPU": 0.5, "memory": 1e9})
    '8 CPUs and 0.5 GPUs'
    """
    cpus, gpus = (round(resources.get(name, 0.0), 2) for name in ("CPU", "GPU"))
    words = [f"{cpus:g} CPU{'' if cpus == 1 else 's'}", f"{gpus:g} GPU{'' if gpus == 1 else 's'}"]
    return " and ".join(words if gpus else words[:1])
