"""As much of Ray as the driver uses, in this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from cambox.engines import cluster
from cambox.engines.actor import Worker

LARGE = "a" * 56


@dataclass(frozen=True, eq=False)
class Call:
    """A reference to what a call will give."""

    name: str
    run: Callable[[], Any]


class PlayedRay:
    """Ray in this process; calls run when they are asked for.

    Args:
        errors: in their order; each is raised by the next call of the method of that name.
        silent: methods whose first ``times`` calls are never answered.
    """

    def __init__(
        self,
        errors: Sequence[tuple[str, Exception]] = (),
        silent: Collection[str] = (),
        times: int = 1,
    ) -> None:
        self.errors = list(errors)
        self.silent = silent
        self.times = times
        self.asked: list[dict[str, Any]] = []
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
                for name in ("where", "load", "begin", "report", "progress")
            }
            self.started.append(SimpleNamespace(**methods))
            return self.started[-1]

        def options(**asked: Any) -> Any:
            self.asked.append(asked)
            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def _method(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Call:
            made = Call(name, lambda: function(*arguments))
            if name in self.silent and self._unanswered(name) < self.times:
                self.unanswered.append(made)
            return made

        return call

    def _unanswered(self, name: str) -> int:
        return sum(call.name == name for call in self.unanswered)

    def get(self, call: Any) -> Any:
        if self.errors and self.errors[0][0] == call.name:
            self.raised += 1
            raise self.errors.pop(0)[1]
        return call.run()

    def wait(self, calls: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return [call for call in calls if call not in self.unanswered], []

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 0.5, "memory": 1e9}

    def nodes(self) -> list[dict[str, Any]]:
        large = {"NodeID": LARGE, "Alive": True, "Resources": {"CPU": 64.0, "GPU": 1.0}}
        small = [
            {"NodeID": f"{number:056x}", "Alive": True, "Resources": {"CPU": 4.0}}
            for number in range(2)
        ]
        return [large, *small]

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)

    def stand_in(self, monkeypatch: pytest.MonkeyPatch, worker: type = Worker) -> None:
        """Take Ray's place in the driver, whose actors are of this class."""
        for name in ("remote", "get", "wait", "kill", "nodes", "available_resources"):
            monkeypatch.setattr(cluster.ray, name, getattr(self, name))
        monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
        context = SimpleNamespace(runtime_env={})
        monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(cluster, "ShardWorker", worker)
