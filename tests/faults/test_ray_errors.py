"""Whatever Ray raises for a call ends its actor, and its shards are tried again.

Ray itself is played here: most of its errors cannot be had on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions as errors
from rich.console import Console

from cambox.canary.rows import Canary, PictureRow
from cambox.canary.workers import Made
from cambox.engines import calls, cluster, driver
from cambox.engines.actor import Warnings, Worker
from cambox.engines.display import RunDisplay
from cambox.engines.local import Prefetch
from cambox.engines.sizing import Place, Pool, Size
from cambox.engines.worker import make_annotator
from cambox.engines.worklist import ShardFailure
from cambox.sources.shards import find_shards
from fault_runs import FaultTable, LocalRuns
from played_ray import LARGE, PlayedRay


def task_error(cause: Exception) -> errors.RayTaskError:
    """As ``ray.get`` raises it for an exception in the actor's code."""
    made = errors.RayTaskError("annotate", "a traceback", cause).as_instanceof_cause()
    assert isinstance(made, errors.RayTaskError)
    return made


LOST: dict[str, Callable[[], Exception]] = {
    "OutOfMemoryError": lambda: errors.OutOfMemoryError("the node ran low on memory"),
    "NodeDiedError": lambda: errors.NodeDiedError("the node died"),
    "RuntimeEnvSetupError": lambda: errors.RuntimeEnvSetupError("no such package"),
    "ActorUnschedulableError": lambda: errors.ActorUnschedulableError("no node fits"),
    "ActorUnavailableError": lambda: errors.ActorUnavailableError("not reachable", b"0" * 16),
    "ActorDiedError": lambda: errors.ActorDiedError(),
    "WorkerCrashedError": lambda: errors.WorkerCrashedError(),
    "OwnerDiedError": lambda: errors.OwnerDiedError("0" * 56, b"", ""),
}


LOST_NODE = "b" * 56


@pytest.fixture
def of_workers() -> list[Made]:
    """What the workers make of the built-in pictures, in the order they start; then none."""
    return []


@pytest.fixture
def play(
    local_runs: LocalRuns, monkeypatch: pytest.MonkeyPatch, of_workers: list[Made]
) -> Callable[..., tuple[PlayedRay, list[Any]]]:
    """Run the driver over the three shards with these errors."""

    made = of_workers

    class Played(Worker):
        def __init__(self, *arguments: Any) -> None:
            self.warnings = Warnings()
            engine = local_runs.engine
            self.prefetch = Prefetch(
                make_annotator(local_runs.config, engine.model, 1, engine.canary)
            )
            self.begun = {}

        def load(self) -> Made:
            return made.pop(0) if made else Made("a worker", "cpu", None, {})

    def run(
        *errors: tuple[str, Exception],
        silent: Collection[str] = (),
        times: int = 1,
        pool: Pool | None = None,
        **settings_of_the_engine: float,
    ) -> tuple[PlayedRay, list[Any]]:
        played = PlayedRay(errors, silent, times)
        played.stand_in(monkeypatch, Played)
        # So that progress is asked for each time.
        monkeypatch.setattr(driver, "POLL_SECONDS", -1)
        monkeypatch.setattr(driver, "PATIENCE_SECONDS", 0)
        stall = {"stall_seconds": 0.5} if silent else {}
        settings = local_runs.config.engine.model_copy(update=stall | settings_of_the_engine)
        config = local_runs.config.model_copy(update={"engine": settings})
        engine: Any = SimpleNamespace(
            config=config,
            recipe=local_runs.engine.recipe,
            head=local_runs.engine.model.classifier.head.kind,
            pool=pool or Pool.of_one_size(1, 0.0, 1.0, 1),
            runtime_env={},
            canary=None,
            retried=frozenset(),
        )
        shards = tuple(find_shards(local_runs.config.input.shards))
        display = RunDisplay(Console(file=played.log, width=200), 3, 1)
        outcomes = cluster.RayEngine.annotate(engine, shards, display)
        return played, outcomes

    return run


@pytest.mark.parametrize("method", ["load", "begin", "report", "progress"])
@pytest.mark.parametrize("error", LOST)
def test_an_error_of_ray_costs_a_worker_and_no_shard(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
    local_runs: LocalRuns,
    fault_table: FaultTable,
    tmp_path: Path,
    error: str,
    method: str,
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    played, outcomes = play((method, LOST[error]()))
    assert len(outcomes) == 3
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)
    # Also one that is only out of reach: alive, it would keep its GPU. None is left at the end.
    assert len(played.started) == (1 if method == "progress" else 2)
    assert played.started[0] is played.killed[0]
    assert {id(handle) for handle in played.killed} == {id(handle) for handle in played.started}
    folder = local_runs.folder(tmp_path / "out")
    fault_table.check(1, f"{error} raised by a played Ray", played.raised, folder, clean)


def test_a_shard_that_hangs_while_others_go_on_is_done_by_another_worker(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
    local_runs: LocalRuns,
    fault_table: FaultTable,
    tmp_path: Path,
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    played, outcomes = play(silent=["report"])
    assert len(outcomes) == 3
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)
    assert len(played.started) == 2
    assert played.started[0] is played.killed[0]
    fault_table.check(
        6,
        "a shard hangs beside others, on a played Ray",
        len(played.unanswered),
        local_runs.folder(tmp_path / "out"),
        clean,
    )


def test_an_exception_of_the_actors_code_leaves_the_actor(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    # One whose cause is itself an error of Ray, too: the actor lives all the same.
    causes: list[Exception] = [OSError(5, "Input/output error"), errors.GetTimeoutError("late")]
    played, outcomes = play(*(("report", task_error(cause)) for cause in causes))
    assert (played.raised, len(played.started)) == (2, 1)
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)


def test_an_actor_that_cannot_load_is_a_failed_start(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    played, outcomes = play(*[("load", task_error(RuntimeError("no weights")))] * 3)
    assert (played.raised, len(played.started), len(played.killed)) == (3, 3, 3)
    assert all("no weights" in outcome.reason for outcome in outcomes)
    # Not the time was the reason.
    assert "engine.start_seconds" not in played.log.getvalue()


def test_of_a_worker_that_died_for_its_time_the_setting_is_named(
    play: Callable[..., tuple[PlayedRay, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "HEARD_LATE_SECONDS", 0)
    died = "load", errors.ActorDiedError()
    soon, _ = play(died, start_seconds=100.0)
    late, outcomes = play(died, start_seconds=1e-9)
    assert "a worker did not start: the worker died" in soon.log.getvalue()
    assert "engine.start_seconds" not in soon.log.getvalue()
    assert "it had engine.start_seconds, 1e-09 s, to load its model" in late.log.getvalue()
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)


def test_a_worker_that_finds_no_room_is_told_of_while_others_work(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    two = Pool.of_one_size(2, 0.0, 1.0, 1)
    played, outcomes = play(silent=["where", "load"], pool=two, wait_seconds=1e-9)
    assert len(outcomes) == 3
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)
    assert len(played.started) == len(played.killed) == 2
    notes = [line for line in played.log.getvalue().splitlines() if "still waiting" in line]
    assert notes[-1].endswith(
        "still waiting for 1 worker of 1 CPU; the cluster has 1 node of 64 CPUs and 1 GPU, 2 nodes "
        "of 4 CPUs, of which 0.5 CPUs are free"
    )


def test_a_run_that_finds_no_room_at_all_ends_and_says_what_was_asked_for(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    many = Pool.of_one_size(3, 2.0, 64.0, 64)
    played, outcomes = play(silent=["where", "load"], times=99, pool=many, wait_seconds=0.3)
    assert len(played.started) == len(played.killed) == 3
    first, *_ = [line for line in played.log.getvalue().splitlines() if "still waiting" in line]
    assert first.endswith("the run ends in 0 s if none finds a place")
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert isinstance(outcome, ShardFailure)
        assert outcome.reason.startswith(
            "no worker could be started: none found a place for engine.wait_seconds, 0.3 s: "
            "3 workers of 64 CPUs and 2 GPUs; the cluster has 1 node of 64 CPUs and 1 GPU, "
        )
        assert "ask for less (engine.gpus_per_worker, engine.cpus_per_worker)" in outcome.reason


SMALL_SIZE, LARGE_SIZE = Size(0.0, 1.0, 1), Size(1.0, 64.0, 64)


def test_workers_go_to_the_nodes_that_they_were_sized_for(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    pool = Pool((Place(LARGE_SIZE, LARGE), Place(SMALL_SIZE)), SMALL_SIZE)
    played, _ = play(("load", errors.ActorDiedError()), pool=pool)
    large, small, again = played.asked
    for asked in (large, again):
        strategy = asked["scheduling_strategy"]
        assert (strategy.node_id, strategy.soft) == (LARGE, True)
        assert (asked["num_gpus"], asked["num_cpus"]) == (1.0, 64.0)
    assert "scheduling_strategy" not in small
    assert (small["num_gpus"], small["num_cpus"]) == (0.0, 1.0)


def test_a_worker_whose_node_is_lost_starts_again_wherever_there_is_room(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    pool = Pool((Place(LARGE_SIZE, LOST_NODE),), SMALL_SIZE)
    played, outcomes = play(("begin", errors.NodeDiedError("the node died")), pool=pool)
    first, again = played.asked
    assert first["scheduling_strategy"].node_id == LOST_NODE
    assert (again["num_cpus"], "scheduling_strategy" in again) == (1.0, False)
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)


def test_a_worker_that_its_own_node_has_no_room_for_goes_elsewhere(
    play: Callable[..., tuple[PlayedRay, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its node is there, and as large: Ray would wait until the others on it have ended.
    monkeypatch.setattr(driver, "ELSEWHERE_SECONDS", 0.05)
    pool = Pool((Place(LARGE_SIZE, LARGE),), SMALL_SIZE)
    played, outcomes = play(silent=["where", "load"], pool=pool)
    assert [asked["num_cpus"] for asked in played.asked] == [64.0, 1.0]
    assert played.started[0] is played.killed[0]
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)
    log = played.log.getvalue()
    assert "no place for a worker of 64 CPUs and 1 GPU on node aaaaaaaa for 0.05 s" in log


def of_gpu(host: str, probability: float, torch: str, kind: str = "a GPU") -> Made:
    row = PictureRow(pixels="same", classes=((1, probability),), boxes=())
    canary = Canary(device="cuda", precision="bfloat16", rows=(row, row))
    return Made(f"process 1 on {host}", kind, canary, {"torch": torch, "numpy": "2"})


def test_a_worker_unlike_the_first_of_its_kind_does_not_start(
    play: Callable[..., tuple[PlayedRay, list[Any]]], of_workers: list[Made]
) -> None:
    # The second has another kind of GPU, so that its rounding tells nothing; the third has not.
    of_workers += [
        of_gpu("one", 0.5, "2.10"),
        of_gpu("two", 0.3, "2.10", "another GPU"),
        of_gpu("three", 0.3, "2.11"),
        of_gpu("four", 0.51, "2.11"),
    ]
    played, outcomes = play(pool=Pool.of_one_size(3, 0.0, 1.0, 1))
    assert len(played.started) == 4
    assert played.killed[0] is played.started[2]
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)
    (refused,) = [
        line for line in played.log.getvalue().splitlines() if "a worker did not start" in line
    ]
    assert "the worker of process 1 on three makes other rows than process 1 on one: " in refused
    assert "a probability of 0.3 in place of 0.5" in refused
    assert "(torch 2.10 there and 2.11 here)" in refused
