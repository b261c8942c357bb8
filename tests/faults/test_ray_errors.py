"""Whatever Ray raises for a call ends its actor, and its shards are tried again.

Ray itself is played here: most of its errors cannot be had on purpose.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions as errors
from rich.console import Console

from cambox.engines import cluster
from cambox.engines.actor import Warnings, Worker
from cambox.engines.display import RunDisplay
from cambox.engines.local import Prefetch
from cambox.engines.sizing import Pool
from cambox.engines.worker import make_annotator
from cambox.engines.worklist import ShardFailure
from cambox.sources.shards import find_shards
from conftest import ConfigMaker
from fault_runs import FaultTable, LocalRuns


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


@dataclass(frozen=True, eq=False)
class Call:
    """A reference to what a call will give."""

    name: str
    run: Callable[[], Any]


class PlayedRay:
    """As much of Ray as the driver uses, in this process; calls run when they are asked for.

    Args:
        errors: in their order; each is raised by the next call of the method of that name.
        silent: a method whose first call is never answered.
    """

    def __init__(self, errors: Sequence[tuple[str, Exception]], silent: str | None) -> None:
        self.errors = list(errors)
        self.silent = silent
        self.unanswered: list[Any] = []
        self.started: list[Any] = []
        self.killed: list[Any] = []
        self.raised = 0
        self.log = io.StringIO()

    def remote(self, worker: type) -> Any:
        def start(*arguments: Any) -> Any:
            played = worker(*arguments)
            methods = {
                name: SimpleNamespace(remote=self._method(getattr(played, name), name))
                for name in ("describe", "begin", "report", "progress")
            }
            self.started.append(SimpleNamespace(**methods))
            return self.started[-1]

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=start))

    def _method(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Call:
            made = Call(name, lambda: function(*arguments))
            if name == self.silent and not self.unanswered:
                self.unanswered.append(made)
            return made

        return call

    def get(self, call: Any) -> Any:
        if self.errors and self.errors[0][0] == call.name:
            self.raised += 1
            raise self.errors.pop(0)[1]
        return call.run()

    def wait(self, calls: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return [call for call in calls if call not in self.unanswered], []

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 0.5}

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)


@pytest.fixture
def play(
    local_runs: LocalRuns, make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[PlayedRay, list[Any]]]:
    """Run the driver over the three shards with these errors."""

    class Played(Worker):
        def __init__(self, *arguments: Any) -> None:
            self.warnings = Warnings()
            engine = local_runs.engine
            self.prefetch = Prefetch(
                make_annotator(local_runs.config, engine.model, 1, engine.canary)
            )
            self.begun = {}

        def describe(self) -> str:
            return "a worker"

    def run(
        *errors: tuple[str, Exception], silent: str | None = None, workers: int = 1
    ) -> tuple[PlayedRay, list[Any]]:
        played = PlayedRay(errors, silent)
        for name in ("remote", "get", "wait", "kill", "available_resources"):
            monkeypatch.setattr(cluster.ray, name, getattr(played, name))
        monkeypatch.setattr(cluster, "ShardWorker", Played)
        # So that progress is asked for each time.
        monkeypatch.setattr(cluster, "POLL_SECONDS", -1)
        monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0)
        settings = local_runs.config.engine
        if silent is not None:
            settings = settings.model_copy(update={"stall_seconds": 0.5})
        config = local_runs.config.model_copy(update={"engine": settings})
        engine: Any = SimpleNamespace(
            config=config,
            recipe=local_runs.engine.recipe,
            head=local_runs.engine.model.classifier.head.kind,
            pool=Pool(workers, 0.0, 1.0, 1),
            runtime_env={},
            canary=None,
            retried=frozenset(),
        )
        shards = tuple(find_shards(local_runs.config.input.shards))
        display = RunDisplay(Console(file=played.log, width=200), 3, 1)
        outcomes = cluster.RayEngine.annotate(engine, shards, display)
        return played, outcomes

    return run


@pytest.mark.parametrize("method", ["describe", "begin", "report", "progress"])
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
    played, outcomes = play(silent="report")
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


def test_an_actor_that_cannot_describe_itself_is_a_failed_start(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    played, outcomes = play(*[("describe", task_error(RuntimeError("no context")))] * 3)
    assert (played.raised, len(played.started), len(played.killed)) == (3, 3, 3)
    assert all("no context" in outcome.reason for outcome in outcomes)


def test_a_worker_that_finds_no_room_is_told_of(
    play: Callable[..., tuple[PlayedRay, list[Any]]],
) -> None:
    played, outcomes = play(silent="describe", workers=2)
    assert len(outcomes) == 3
    assert not any(isinstance(outcome, ShardFailure) for outcome in outcomes)
    assert len(played.started) == len(played.killed) == 2
    notes = [line for line in played.log.getvalue().splitlines() if "still waiting" in line]
    assert "for 1 workers: each asks for 1 CPUs and 0 GPUs" in notes[-1]
    assert "'CPU': 0.5" in notes[-1]
