"""Pools fit their cluster: for each worker there is a node that has room for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambox.config import EngineSettings
from cambox.engines.sizing import Pool, size_pool

Node = dict[str, float]


def sized(settings: dict[str, Any], nodes: list[Node], free: float) -> Pool:
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    return size_pool(EngineSettings.model_validate(settings), [*alive, gone], {"CPU": free})


@pytest.mark.parametrize(
    ("settings", "nodes", "available", "expected"),
    [
        # Eight GPUs on two nodes: each worker has its share of the CPUs.
        ({}, [{"CPU": 32.0, "GPU": 4.0}] * 2, 63.0, Pool(8, 1.0, 7.0, 7)),
        # A laptop: one worker for four CPUs.
        ({}, [{"CPU": 2.0}], 2.0, Pool(1, 0.0, 2.0, 2)),
        ({}, [{"CPU": 16.0}], 15.0, Pool(3, 0.0, 4.0, 4)),
        # More workers than CPUs are still all placed.
        ({"workers": 2}, [{"CPU": 2.0, "GPU": 2.0}], 1.0, Pool(2, 1.0, 0.5, 1)),
        ({"workers": 3}, [{"CPU": 2.0}], 2.0, Pool(3, 0.0, 0.66, 1)),
        ({"gpus_per_worker": 0.5}, [{"CPU": 8.0, "GPU": 1.0}], 8.0, Pool(2, 0.5, 4.0, 4)),
        ({"gpus_per_worker": 0}, [{"CPU": 8.0, "GPU": 1.0}], 8.0, Pool(2, 0.0, 4.0, 4)),
        ({"cpus_per_worker": 3}, [{"CPU": 9.0}], 9.0, Pool(3, 0.0, 3.0, 3)),
        # CPUs of a node without a GPU are of no use to a worker on another node.
        ({}, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}], 24.0, Pool(1, 1.0, 8.0, 8)),
        ({}, [{"CPU": 96.0, "GPU": 8.0}, {"CPU": 32.0}], 127.0, Pool(8, 1.0, 12.0, 12)),
        ({"cpus_per_worker": 3}, [{"CPU": 8.0, "GPU": 4.0}], 8.0, Pool(2, 1.0, 3.0, 3)),
        # Of a node of six CPUs a worker of four would leave two.
        ({}, [{"CPU": 6.0}] * 2, 12.0, Pool(4, 0.0, 3.0, 3)),
        # Others use most of the only node.
        ({}, [{"CPU": 8.0, "GPU": 2.0}], 2.0, Pool(2, 1.0, 1.0, 1)),
        # Nodes with GPUs are still to come.
        ({"gpus_per_worker": 1}, [{"CPU": 8.0}], 8.0, Pool(1, 1.0, 8.0, 8)),
        # A share of a GPU is of one GPU: of two GPUs there are two with 0.6 of one, not three.
        ({"gpus_per_worker": 0.6}, [{"CPU": 8.0, "GPU": 2.0}], 8.0, Pool(2, 0.6, 4.0, 4)),
        ({}, [{"CPU": 0.0}], 0.0, Pool(1, 0.0, 0.0, 1)),
    ],
)
def test_the_pool_fits_the_cluster(
    settings: dict[str, Any], nodes: list[Node], available: float, expected: Pool
) -> None:
    assert sized(settings, nodes, available) == expected


def placed(pool: Pool, nodes: list[Node]) -> int:
    """How many of its workers find room, node by node and GPU by GPU, in Ray's own units."""
    cpus_each, gpus_each = round(1e4 * pool.cpus_per_worker), round(1e4 * pool.gpus_per_worker)
    workers = 0
    for node in nodes:
        cpus = round(1e4 * node["CPU"])
        gpus = [10_000] * int(node.get("GPU", 0))
        while workers < pool.workers and cpus >= cpus_each:
            if gpus_each > 10_000:
                needed = gpus_each // 10_000
                if len(gpus) < needed:
                    break
                del gpus[:needed]
            elif gpus_each:
                free = next((place for place, left in enumerate(gpus) if left >= gpus_each), None)
                if free is None:
                    break
                gpus[free] -= gpus_each
            cpus -= cpus_each
            workers += 1
    return workers


NODES = st.lists(
    st.builds(
        lambda cpus, gpus: {"CPU": float(cpus), "GPU": float(gpus)},
        st.integers(0, 128),
        st.sampled_from([0, 0, 1, 2, 4, 8]),
    ),
    min_size=1,
    max_size=6,
)


@given(nodes=NODES, gpus_each=st.sampled_from(["auto", 0, 0.1, 0.25, 0.3, 0.5, 0.6, 1, 2]))
def test_every_worker_finds_a_node(nodes: list[Node], gpus_each: float | str) -> None:
    free = sum(node["CPU"] for node in nodes)
    pool = sized({"gpus_per_worker": gpus_each}, nodes, free)
    slots = sum(
        int(node["GPU"]) * int(1 / pool.gpus_per_worker + 1e-9)
        if pool.gpus_per_worker < 1
        else int(node["GPU"] // pool.gpus_per_worker)
        for node in nodes
        if pool.gpus_per_worker
    )
    if pool.gpus_per_worker and not slots:
        assert pool.workers == 1, "it waits for a node to come"
        return
    assert placed(pool, nodes) == pool.workers
    assert pool.threads == max(1, int(pool.cpus_per_worker))
    if slots:
        assert pool.workers == slots, "every GPU has its workers"
        # No more could be had: with one CPU more each, not all would find a node.
        assert placed(Pool(slots, pool.gpus_per_worker, pool.threads + 1, 1), nodes) < slots
    elif free >= 1:
        assert pool.workers * pool.cpus_per_worker >= 0.75 * free, "few CPUs are left over"


@given(nodes=NODES, workers=st.integers(1, 40))
def test_as_many_as_asked_for_find_a_node(nodes: list[Node], workers: int) -> None:
    pool = sized({"workers": workers}, nodes, sum(node["CPU"] for node in nodes))
    gpus = sum(int(node["GPU"]) for node in nodes)
    assert pool.workers == workers
    assert placed(pool, nodes) == (min(workers, gpus) if gpus else workers)


@given(nodes=NODES, taken=st.integers(0, 64), where=st.integers(0, 5))
def test_what_others_took_is_respected(nodes: list[Node], taken: int, where: int) -> None:
    """It lies on nodes without a GPU, as Ray places it, or else on any one of the others."""
    left = [dict(node) for node in nodes]
    on_gpus = [node for node in left if node["GPU"]]
    for node in left:
        if not node["GPU"]:
            here = min(taken, node["CPU"])
            node["CPU"] -= here
            taken -= int(here)
    if not on_gpus:
        return
    node = on_gpus[where % len(on_gpus)]
    node["CPU"] -= min(taken, node["CPU"] // 2)
    pool = sized({}, nodes, sum(node["CPU"] for node in left))
    assert pool.workers == sum(int(node["GPU"]) for node in nodes)
    assert placed(pool, left) == pool.workers
