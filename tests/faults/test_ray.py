"""Workers, nodes, drivers and the head of a Ray cluster die; every shard is there, once.

The tests use up one cluster in their order: the last one loses its head.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cambox.sources.pack import pack
from conftest import ConfigMaker
from fault_driver import drive, driver, wait_until
from fault_points import (
    ANY_SHARD,
    BEFORE_READ,
    BEFORE_REPLY,
    CONSTRUCTOR,
    MID_SHARD,
    TEMPORARY_WRITTEN,
    Each,
    Signal,
    Slow,
)
from fault_runs import FaultTable, LocalRuns, samples_in_rows, temporaries, visible

DEADLY = {
    "shard-000000.tar": BEFORE_READ,
    "shard-000001.tar": MID_SHARD,
    "shard-000002.tar": TEMPORARY_WRITTEN,
    "shard-000003.tar": BEFORE_REPLY,
}
POISON = "shard-000004.tar"
# Late, when those that die once are done; one of them would else end its worker.
HANGS = "shard-000011.tar"
ALWAYS = 99
CPUS_OF_NODES = (1, 2)


@pytest.fixture(scope="module")
def cluster(private_ray: None) -> Iterator[Any]:
    """Two nodes with a GPU, of one CPU and of two, and a head without any; with their own ports."""
    from ray.cluster_utils import Cluster

    # Workers import the faults by their name.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    # A driver that has lost its head waits so long for it to come back; by default a minute.
    os.environ.update(RAY_gcs_rpc_server_reconnect_timeout_s="3")
    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        for cpus in CPUS_OF_NODES:
            made.add_node(num_cpus=cpus, num_gpus=1, **small)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


class OnRay:
    """Runs on the cluster over twelve shards of one picture."""

    def __init__(self, cluster: Any, make_config: ConfigMaker, shards: Path, folder: Path) -> None:
        pattern = f"input.shards={shards}/*.tar"
        self.local = LocalRuns(make_config(pattern))
        self.clean = self.local.clean(folder / "clean")
        self.published = self.local.folder(folder / "out")
        self.log = folder / "log"
        self.command = ["annotate", str(folder / "config.yaml"), "--engine", "ray"]
        self.command += ["--set", pattern, "--set", "engine.workers=2"]
        # Each as large as its node; that these GPUs compute nothing is known.
        self.command += ["--set", "engine.cpus_per_worker=auto", "--set", "model.precision=float32"]
        self.environment = {
            name: value for name, value in os.environ.items() if name.startswith(("RAY", "PYTHON"))
        } | {"RAY_ADDRESS": cluster.address}


@pytest.fixture
def on_ray(cluster: Any, make_config: ConfigMaker, pictures: Path, tmp_path: Path) -> OnRay:
    pack(pictures, tmp_path / "shards", pictures / "labels.csv", samples_per_shard=1)
    return OnRay(cluster, make_config, tmp_path / "shards", tmp_path)


def test_workers_die_everywhere_hang_and_meet_a_poison_shard(
    on_ray: OnRay, fault_table: FaultTable, tmp_path: Path
) -> None:
    """In one run, as every new worker costs seconds; a poison shard kills its worker each time."""
    marks = tmp_path / "marks"
    kills = Each(
        Signal(DEADLY, marks / "points"),
        Signal({ANY_SHARD: CONSTRUCTOR}, marks / "constructor"),
        Signal({ANY_SHARD: CONSTRUCTOR}, marks / "hung start", number=None),
        Signal({POISON: MID_SHARD}, marks / "poison", times=ALWAYS),
        Signal({HANGS: MID_SHARD}, marks / "hangs", number=None),
    )
    points, constructor, hung_start, poison, hung = kills.hits
    command = [*on_ray.command, "--set", "engine.max_attempts=2"]
    command += ["--set", "engine.stall_seconds=20", "--set", "engine.start_seconds=40"]
    assert drive(command, kills, on_ray.log, on_ray.environment) == 1
    log = on_ray.log.read_text()
    (given_up,) = [line for line in log.splitlines() if line.startswith("given up: ")]
    assert f"{POISON}: the worker died" in given_up
    # A worker that dies with several shards is held against none of them.
    beside = sum(f"{POISON}: the worker died" in line for line in tried_alone(log))
    assert beside in (0, 1)
    died = log.count(f"{POISON}: the worker died")
    assert died == 3 + beside, "one retry; given up, and said at the end"
    assert f"{HANGS}: no progress for 20 s; the worker was replaced; " in log
    assert (points.sent, constructor.sent) == (len(DEADLY), 1)
    # Where it was beside others, one of those may have been the one that killed.
    assert poison.sent in (2, 2 + beside)
    assert (hung.sent, hung_start.sent) == (1, 1)
    # Of the one that hung, and not of the one that was killed.
    assert log.count("a worker did not start: ") == 2
    assert log.count("it had engine.start_seconds, 40 s, to load its model") == 1
    # All the others are there, and right.
    found = visible(on_ray.published)
    assert found.items() <= on_ray.clean.files.items()
    assert len(found) == len(on_ray.clean.files) - 1
    missing = on_ray.clean.samples - samples_in_rows(on_ray.published)
    assert {Path(shard).name for shard, _ in missing} == {POISON}
    assert len(temporaries(on_ray.published)) == 1

    # Mended, which here is a worker that it does not kill, the same command does the rest.
    (report,) = on_ray.local.run().reports
    assert Path(report.shard.uri).name == POISON
    for line, fault, sent in (
        (1, "kill -9 of a Ray worker, once at each point", points.sent),
        (4, "poison shard, kill -9 of its worker each time", poison.sent),
        (5, "kill -9 of a Ray worker in its constructor", constructor.sent),
        (5, "a Ray worker hangs in its constructor", hung_start.sent),
        (6, "a Ray worker hangs in the middle of a shard", hung.sent),
    ):
        fault_table.check(line, fault, sent, on_ray.published, on_ray.clean)


def tried_alone(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.endswith("so tried alone")]


def test_a_node_is_lost(
    on_ray: OnRay, cluster: Any, fault_table: FaultTable, tmp_path: Path
) -> None:
    slow = Slow(0.15, tmp_path / "begun", together=2)
    with driver(on_ray.command, slow, on_ray.log, on_ray.environment) as process:
        wait_until(lambda: len(slow.processes) == 2, "both workers' start", 120)
        workers = slow.processes
        # Without mercy: the machine is gone, its workers with it.
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        process.join(90)
        assert process.exitcode == 0, on_ray.log.read_text()
    log = on_ray.log.read_text()
    ready = re.findall(r"worker ready: .* on .*\(node (\w+), .*, (\d+ threads?)", log)
    assert len(set(ready)) == 2
    assert {threads for _, threads in ready} == {"1 thread", "2 threads"}
    assert "attempt 1 failed" in log or tried_alone(log)
    lost = sum(not is_alive(worker) for worker in workers)
    fault_table.check(3, "node of a Ray cluster lost", lost, on_ray.published, on_ray.clean)


def test_a_night_is_told_to_end(on_ray: OnRay, fault_table: FaultTable, tmp_path: Path) -> None:
    """SIGTERM: within ten seconds, its workers gone, a report that says so, the rest as it was."""
    slow = Slow(0.3, tmp_path / "begun")
    command = ["nightly", *on_ray.command[1:]]
    with driver(command, slow, on_ray.log, on_ray.environment) as process:
        wait_until(lambda: visible(on_ray.published), "the first published shard")
        process.terminate()
        process.join(10)
        assert process.exitcode == 143, on_ray.log.read_text()
    wait_until(lambda: not any(map(is_alive, slow.processes)), "its workers' end", 10)
    found = visible(on_ray.published)
    assert found.items() <= on_ray.clean.files.items()
    assert len(found) < len(on_ray.clean.files)
    log = on_ray.log.read_text()
    said = re.search(r"interrupted: (\d+) of 12 shards published", log)
    # A worker may have published one while it was being ended.
    assert said is not None
    assert 1 <= int(said[1]) <= len(found)
    assert "cambox: interrupted; what is published is whole" in log
    assert "Traceback" not in log
    (path,) = (on_ray.published.parent / "_runs").glob("*.json")
    report = json.loads(path.read_text())
    assert (report["exit_code"], report["error"]) == (143, "Terminated: SIGTERM")

    assert on_ray.local.run().complete
    fault_table.check(2, "SIGTERM to a night on Ray", 1, on_ray.published, on_ray.clean)


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def test_the_driver_and_then_the_head_are_lost(
    on_ray: OnRay, cluster: Any, fault_table: FaultTable, tmp_path: Path
) -> None:
    slow = Slow(0.3, tmp_path / "begun")
    with driver(on_ray.command, slow, on_ray.log, on_ray.environment) as process:
        wait_until(lambda: visible(on_ray.published), "the first published shard")
        process.kill()
        process.join()
        drivers_killed = int(process.exitcode == -signal.SIGKILL)
    assert visible(on_ray.published).items() <= on_ray.clean.files.items()
    assert len(visible(on_ray.published)) < len(on_ray.clean.files)

    slow = Slow(0.3, tmp_path / "begun again")
    with driver(on_ray.command, slow, on_ray.log, on_ray.environment) as process:
        wait_until(lambda: slow.processes, "the next worker's start")
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        process.join(60)
        # It says so in its exit code, and does not wait for ever.
        assert process.exitcode not in (0, None)
        heads_lost = int(not cluster.head_node.any_processes_alive())
    assert visible(on_ray.published).items() <= on_ray.clean.files.items()
    assert len(visible(on_ray.published)) < len(on_ray.clean.files)

    assert on_ray.local.run().complete
    out, clean = on_ray.published, on_ray.clean
    fault_table.check(2, "kill -9 of a driver of the Ray engine", drivers_killed, out, clean)
    fault_table.check(3, "head of a Ray cluster lost", heads_lost, out, clean)
