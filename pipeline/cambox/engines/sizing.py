"""How many workers of which size a cluster holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cambox.config import EngineSettings

CPUS_OF_A_CPU_WORKER = 4


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
    """Fit the pool to the cluster.

    On a cluster with GPUs each worker gets one and its share of the CPUs, because an actor that
    asks for a GPU alone gets a single CPU thread to decode with. Without GPUs a worker gets up
    to four CPUs.

    Args:
        nodes: as ``ray.nodes()`` gives them.
        available: as ``ray.available_resources()`` gives them.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(node.get("GPU", 0.0) for node in alive)
    cpus = available.get("CPU", 0.0)
    gpus_per_worker = settings.gpus_per_worker
    if gpus_per_worker == "auto":
        gpus_per_worker = 1.0 if gpus >= 1 else 0.0
    cpus_asked = None if settings.cpus_per_worker == "auto" else settings.cpus_per_worker
    if settings.workers != "auto":
        workers = settings.workers
    elif gpus_per_worker:
        workers = max(1, int(gpus // gpus_per_worker))
    else:
        workers = max(1, int(cpus // (cpus_asked or CPUS_OF_A_CPU_WORKER)))
    if cpus_asked is not None:
        return Pool(workers, gpus_per_worker, float(cpus_asked), cpus_asked)
    largest_node = max((node.get("CPU", 0.0) for node in alive), default=0.0)
    share = min(cpus / workers, largest_node)
    if not gpus_per_worker:
        share = min(share, CPUS_OF_A_CPU_WORKER)
    # Less than one CPU each is asked for as a fraction, so that all workers can be placed.
    cpus_per_worker = float(int(share)) if share >= 1 else round(share, 2)
    return Pool(workers, gpus_per_worker, cpus_per_worker, max(1, int(share)))
