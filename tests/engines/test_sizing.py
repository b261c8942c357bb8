"""Pools fit their cluster: for each worker there is a node that has room for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambox.config import EngineSettings
from cambox.engines.sizing import Place, Pool, Size, size_pool

Node = dict[str, float]


def name_of(number: int) -> str:
    """The id of a node."""
    return f"node-{number}"


alike = Pool.of_one_size


def sized(settings: dict[str, Any], nodes: list[Node], free: float) -> Pool:
    alive = [
        {"NodeID": name_of(number), "Alive": True, "Resources": node}
        for number, node in enumerate(nodes)
    ]
    gone = {"NodeID": "gone", "Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    return size_pool(EngineSettings.model_validate(settings), [*alive, gone], {"CPU": free})


@pytest.mark.parametrize(
    ("settings", "nodes", "available", "expected"),
    [
        # Eight GPUs on two nodes, with 7.75 CPUs each: three workers, for two CPUs each.
        ({}, [{"CPU": 32.0, "GPU": 4.0}] * 2, 63.0, alike(24, 0.3333, 2.0, 2)),
        # With few CPUs each has a GPU, and with many no more than eight share one.
        ({}, [{"CPU": 12.0, "GPU": 4.0}], 12.0, alike(4, 1.0, 3.0, 3)),
        ({}, [{"CPU": 64.0, "GPU": 1.0}], 64.0, alike(8, 0.125, 8.0, 8)),
        # Of a worker for eight CPUs two share a GPU with sixteen.
        ({"cpus_per_worker": 8}, [{"CPU": 16.0, "GPU": 1.0}], 16.0, alike(2, 0.5, 8.0, 8)),
        # A node with little memory: 4 GiB for each.
        (
            {},
            [{"CPU": 16.0, "GPU": 1.0, "memory": 13.0 * 2**30}],
            16.0,
            alike(3, 0.3333, 5.0, 5),
        ),
        # As many as are asked for have a GPU each.
        ({"workers": 2}, [{"CPU": 32.0, "GPU": 2.0}], 32.0, alike(2, 1.0, 16.0, 16)),
        # A laptop: one worker for four CPUs.
        ({}, [{"CPU": 2.0}], 2.0, alike(1, 0.0, 2.0, 2)),
        ({}, [{"CPU": 16.0}], 15.0, alike(3, 0.0, 4.0, 4)),
        # More workers than CPUs are still all placed.
        ({"workers": 2}, [{"CPU": 2.0, "GPU": 2.0}], 1.0, alike(2, 1.0, 0.5, 1)),
        ({"workers": 3}, [{"CPU": 2.0}], 2.0, alike(3, 0.0, 0.66, 1)),
        (
            {"gpus_per_worker": 0.5},
            [{"CPU": 8.0, "GPU": 1.0}],
            8.0,
            alike(2, 0.5, 4.0, 4),
        ),
        ({"gpus_per_worker": 0}, [{"CPU": 8.0, "GPU": 1.0}], 8.0, alike(2, 0.0, 4.0, 4)),
        ({"cpus_per_worker": 3}, [{"CPU": 9.0}], 9.0, alike(3, 0.0, 3.0, 3)),
        # CPUs of a node without a GPU are of no use to a worker on another node.
        ({}, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}], 24.0, alike(4, 0.25, 2.0, 2)),
        ({}, [{"CPU": 96.0, "GPU": 8.0}, {"CPU": 32.0}], 127.0, alike(48, 0.1666, 2.0, 2)),
        ({"cpus_per_worker": 3}, [{"CPU": 8.0, "GPU": 4.0}], 8.0, alike(2, 1.0, 3.0, 3)),
        # Of a node of six CPUs a worker of four would leave two.
        ({}, [{"CPU": 6.0}] * 2, 12.0, alike(4, 0.0, 3.0, 3)),
        # Others use most of the only node.
        ({}, [{"CPU": 8.0, "GPU": 2.0}], 2.0, alike(2, 1.0, 1.0, 1)),
        # Nodes with GPUs are still to come.
        ({"gpus_per_worker": 1}, [{"CPU": 8.0}], 8.0, alike(1, 1.0, 8.0, 8)),
        # A share of a GPU is of one GPU: of two GPUs there are two with 0.6 of one, not three.
        (
            {"gpus_per_worker": 0.6},
            [{"CPU": 8.0, "GPU": 2.0}],
            8.0,
            alike(2, 0.6, 4.0, 4),
        ),
        ({}, [{"CPU": 0.0}], 0.0, alike(1, 0.0, 0.0, 1)),
    ],
)
def test_the_pool_fits_the_cluster(
    settings: dict[str, Any], nodes: list[Node], available: float, expected: Pool
) -> None:
    assert sized(settings, nodes, available) == expected


# Eight GPUs on one node and one on another, and a head without any.
MIXED: list[Node] = [
    {"CPU": 96.0, "GPU": 8.0},
    {"CPU": 64.0, "GPU": 1.0},
    {"CPU": 4.0},
]
SMALL, LARGE = Size(1.0, 12.0, 12), Size(1.0, 64.0, 64)
ALONE = {"gpus_per_worker": 1}


def test_each_node_has_as_many_workers_on_a_gpu_as_it_has_cpus_for() -> None:
    pool = sized({}, MIXED, 164.0)
    assert pool.places[:8] == (Place(Size(1 / 8, 8.0, 8), "node-1"),) * 8
    assert pool.places[8:] == (Place(Size(0.1666, 2.0, 2), "node-0"),) * 48
    assert pool.spare == Size(0.1666, 2.0, 2)


def test_workers_with_as_many_cpus_but_other_parts_of_a_gpu_are_not_alike() -> None:
    nodes = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
    pool = sized({}, nodes, 8.0)
    whole, half = Size(1.0, 2.0, 2), Size(0.5, 2.0, 2)
    assert {place for place in pool.places if place.size == whole} == {
        Place(whole, "node-0"),
        Place(whole, "node-2"),
    }
    assert pool.places.count(Place(half, "node-1")) == 2
    assert (len(pool.places), pool.spare) == (4, half)


def test_each_worker_has_its_share_of_its_own_node() -> None:
    pool = sized(ALONE, MIXED, 163.0)
    assert pool.places == (Place(LARGE, "node-1"), *[Place(SMALL, "node-0")] * 8)
    # One that loses its node, or waits for another, fits on all of them.
    assert pool.spare == SMALL


def test_workers_beyond_the_gpus_wait_for_any_node() -> None:
    pool = sized({"workers": 11}, MIXED, 164.0)
    assert pool.places[:9] == sized(ALONE, MIXED, 164.0).places
    assert pool.places[9:] == (Place(SMALL),) * 2


def test_fewer_workers_than_gpus_are_alike_and_go_anywhere() -> None:
    # Three on the node of 96 CPUs, and one on the other.
    assert sized({"workers": 4}, MIXED, 164.0) == alike(4, 1.0, 32.0, 32)


@pytest.mark.parametrize("given", [{"cpus_per_worker": 12}, {"gpus_per_worker": 0}])
def test_workers_of_a_given_size_are_alike(given: dict[str, Any]) -> None:
    assert {place.node for place in sized(given, MIXED, 164.0).places} == {None}


def test_two_workers_share_a_gpu_and_its_part_of_the_node() -> None:
    pool = sized({"gpus_per_worker": 0.5}, MIXED, 164.0)
    assert pool.places[:2] == (Place(Size(0.5, 32.0, 32), "node-1"),) * 2
    assert pool.places[2:] == (Place(Size(0.5, 6.0, 6), "node-0"),) * 16


def test_a_worker_starts_again_in_its_place_while_the_node_is_there() -> None:
    pool = sized(ALONE, MIXED, 164.0)
    nodes = [{"NodeID": "node-0", "Alive": True}, {"NodeID": "node-1", "Alive": False}]
    here, gone = Place(SMALL, "node-0"), Place(LARGE, "node-1")
    assert pool.again(here, nodes) == here
    assert pool.again(gone, nodes) == Place(SMALL)
    assert pool.again(Place(LARGE), nodes) == Place(LARGE)


def placed(pool: Pool, nodes: list[Node]) -> int:
    """How many workers find room, each on its node or on the first, in Ray's own units."""
    cpus = [round(1e4 * node["CPU"]) for node in nodes]
    gpus = [[10_000] * int(node.get("GPU", 0)) for node in nodes]
    workers = 0
    for place in pool.places:
        for number in range(len(nodes)):
            wanted = place.node in (None, name_of(number))
            cpus_each = round(1e4 * place.size.cpus)
            if wanted and cpus[number] >= cpus_each and took(gpus[number], place.size.gpus):
                cpus[number] -= cpus_each
                workers += 1
                break
    return workers


def took(gpus: list[int], each: float) -> bool:
    """Take so much of a node's GPUs, if it is there."""
    needed = round(1e4 * each)
    if needed > 10_000:
        whole = [place for place, left in enumerate(gpus) if left == 10_000]
        chosen = whole[: needed // 10_000]
        if len(chosen) < needed // 10_000:
            return False
    else:
        chosen = [place for place, left in enumerate(gpus) if left >= needed][: needed > 0]
        if needed and not chosen:
            return False
    for place in chosen:
        gpus[place] -= min(needed, 10_000)
    return True


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
    gpus = pool.spare.gpus

    def slots_of(number: int) -> int:
        """Workers that a node's GPUs are enough for."""
        here = [place.size.gpus for place in pool.places if place.node == name_of(number)]
        each, count = here[0] if here else gpus, nodes[number]["GPU"]
        return int(count) * int(1 / each + 1e-9) if each < 1 else int(count // each)

    slots = [slots_of(number) for number in range(len(nodes)) if gpus]
    if gpus and not sum(slots):
        assert len(pool.places) == 1, "it waits for a node to come"
        return
    assert placed(pool, nodes) == len(pool.places)
    assert all(place.size.threads == max(1, int(place.size.cpus)) for place in pool.places)
    assert min(place.size.cpus for place in pool.places) == pool.spare.cpus
    if gpus:
        assert len(pool.places) == sum(slots), "every GPU has its workers"
        for number, (node, count) in enumerate(zip(nodes, slots, strict=True)):
            here = [place for place in pool.places if place.node in (None, name_of(number))]
            assert not count or here[0].size.threads + 1 > node["CPU"] / count, "none has more"
    elif free >= 1:
        assert len(pool.places) * pool.spare.cpus >= 0.75 * free, "few CPUs are left over"


@given(nodes=NODES, workers=st.integers(1, 40))
def test_as_many_as_asked_for_find_a_node(nodes: list[Node], workers: int) -> None:
    pool = sized({"workers": workers}, nodes, sum(node["CPU"] for node in nodes))
    gpus = sum(int(node["GPU"]) for node in nodes)
    assert len(pool.places) == workers
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
    free = sum(node["CPU"] for node in left)
    alone, shared = sized(ALONE, nodes, free), sized({}, nodes, free)
    assert len(alone.places) == sum(int(node["GPU"]) for node in nodes) <= len(shared.places)
    for pool in (alone, shared):
        assert placed(pool, left) == len(pool.places)
