"""One history: what the seed says, from the first run to the one after all is quiet again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import date, timedelta
from random import Random
from typing import Any

from cambox.config import Config
from cambox.errors import RequestError
from cambox.nightly.night import run_night
from cambox.nightly.report import RunReport
from cambox.output.prune import prune
from cambox.output.reading import open_recipe
from cambox.run import run
from cambox.summary import RunSummary

from .checks import Checks, wrong
from .clock import Clock, CrashError, Process
from .engine import ROOT, Engine
from .habits import KINDS, Habits
from .store import Store
from .world import SILENT, replaced

DAY = 24 * 3600.0
CONFIG = Config.model_validate(
    {
        "input": {"shards": [f"{ROOT}/in/*.tar"]},
        "model": {"name": "none of these"},
        "output": {"uri": f"{ROOT}/out"},
    }
)


class History:
    """All that happens under one seed.

    Args:
        around: entered while the product's code runs; how a bug is planted.
    """

    def __init__(
        self, seed: int, around: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        self.seed, self.around = seed, around
        self.chance = Random(seed)
        self.kind = self.chance.choices(KINDS, (6, 1, 1, 1, 1))[0]
        self.clock = Clock(self.chance)
        self.store = Store(self.clock, self._habits())
        self.checks = Checks(self.store, self.kind.strict)
        self.broken: AssertionError | None = None
        self.store.arrived = self._check
        self.processes: list[Process] = []
        self.clocks_jump = self.chance.random() < 0.1
        self.clock.stalls = self.chance.choice((0.0, 0.002, 0.01))
        self.moves = self.chance.choice((0.0, 0.005, 0.03, 0.06))
        self.outages = self.chance.choice((0.0, 0.0, 0.002, 0.02))
        self.deadly = self.chance.choice((0.0, 0.0, 0.2))

    def _habits(self) -> Habits:
        given, share = self.kind.habits, self.chance.choice((0.0, 0.02, 0.1, 0.3))
        late = self.chance.random() if given.latest else 0.0
        return Habits(
            given.conditions,
            refuses=share / 3,
            loses=share,
            late=late,
            doubles=share * self.chance.random() if given.latest else 0.0,
            latest=given.latest,
            lists_late=given.lists_late * self.chance.random(),
            stale=given.stale * self.chance.random(),
        )

    def run(self) -> None:
        """Let it happen.

        Raises:
            AssertionError: a promise is broken.
        """
        for number in range(self.chance.randint(1, 3)):
            self._change(f"in/shard-{number}.tar")
        with replaced(self.clock, self.store, self.processes, self._engine), self.around():
            self.clock.on_step = self._on_step
            actors = [self._actor() for _ in range(self.chance.randint(1, 5))]
            self.clock.run(*((one, self._begun(one, begin, do)) for one, begin, do in actors))
            if self.broken is not None:
                raise self.broken
            for one, _, _ in actors:
                self._judge(one.outcome, one)
            self._quiet()

    def _actor(self) -> tuple[Process, float, Callable[[], object]]:
        chance = self.chance
        process = Process(len(self.processes) + 1, chance.choice("AB"))
        self.processes.append(process)
        process.ahead = timedelta(seconds=chance.uniform(-30, 30))
        if self.clocks_jump:
            process.ahead += timedelta(seconds=chance.uniform(-DAY, DAY))
        if chance.random() < 0.4:
            process.crash_at, process.after = chance.randint(1, 150), chance.random() < 0.5
        begin = chance.choice((60.0, 3600.0, DAY, DAY, 3 * DAY)) * chance.random()
        do = chance.choices((self._night, self._annotate, self._read, self._prune), (5, 5, 2, 1))[0]
        return process, begin, do

    def _begun(
        self, process: Process, begin: float, do: Callable[[], object]
    ) -> Callable[[], object]:
        def later() -> object:
            self.clock.sleep(begin)
            try:
                return do()
            finally:
                self._check()

        return later

    def _check(self) -> None:
        if not self.kind.strict or self.broken is not None:
            return
        try:
            self.checks.manifests()
        except AssertionError as error:
            # Told at the end: the product would take it for a failure of a shard.
            self.broken = error

    def _engine(self, config: Config) -> Engine:
        return Engine(config, self.clock, self.deadly)

    def _night(self) -> RunReport:
        return run_night(CONFIG, date(2026, 1, 31), ["cambox", "nightly"], SILENT)

    def _annotate(self) -> RunSummary:
        return run(CONFIG, SILENT)

    def _prune(self) -> object:
        keep = self.chance.choice((1, 2, 14))
        self.checks.kept = min(self.checks.kept, keep)
        return prune(CONFIG.output, keep, self.clock.now(), delete=True)

    def _read(self) -> None:
        opened = open_recipe(CONFIG.output.uri)
        digest = opened.folder.manifest
        keys = []
        for file in opened.files:
            self.clock.sleep(self.chance.choice((1.0, 600.0, 2 * DAY)) * self.chance.random())
            for batch in file.batches(["key"]):
                keys += batch["key"].to_pylist()
        if digest is not None:
            self.checks.read(digest, keys)

    def _on_step(self) -> None:
        if self.moves and self.chance.random() < self.moves:
            path = f"in/shard-{self.chance.randint(0, 3)}.tar"
            if self.chance.random() < 0.3:
                self.store.drop(f"simulated/{path}")
            else:
                self._change(path)
        if self.outages and self.chance.random() < self.outages:
            seconds = self.chance.choice((5.0, 20.0, 60.0, 900.0)) * self.chance.random()
            self.store.down_until = self.clock.seconds + seconds
        if self.clocks_jump and self.clock.current and self.chance.random() < 0.005:
            self.clock.current.ahead = timedelta(seconds=self.chance.uniform(-DAY, DAY))

    def _change(self, path: str) -> None:
        states = self.checks.states_of(f"{ROOT}/{path}")
        # Sometimes back to what it was; not while it is read, which its description cannot tell.
        state = self.chance.randint(0, len(states)) if not self.clock.reading else len(states)
        self.checks.change(path, state, self.chance.randint(1, 3))

    def _judge(self, outcome: object, process: Process) -> None:
        if isinstance(outcome, CrashError) and process.dead:
            return
        if isinstance(outcome, AssertionError):
            raise outcome
        if isinstance(outcome, RequestError):
            self._judge_request(outcome)
        elif isinstance(outcome, BaseException):
            # What a storage fails with ends a run with 1.
            if not isinstance(outcome, OSError):
                raise wrong(f"{type(outcome).__name__}: {outcome}") from outcome
        elif isinstance(outcome, RunReport):
            if outcome.exit_code == 0:
                self.checks.complete(outcome.manifest)
        elif isinstance(outcome, RunSummary) and outcome.complete:
            self.checks.complete(outcome.manifest)

    def _judge_request(self, error: RequestError) -> None:
        text = str(error)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (TimeoutError, OSError)) and not isinstance(
                cause, FileNotFoundError
            ):
                return
            cause = cause.__cause__
        nothing_there = ("matches no file", "holds nothing", "does not exist", "no published file")
        if error.exit_code == 1 or any(words in text for words in nothing_there):
            return
        if self.checks.kept < 14 and ("not there any more" in text or "not kept" in text):
            return
        if not self.kind.strict and ("not kept" in text or "cannot be read" in text):
            return
        raise wrong(f"exit 2 of a right request: {text}") from error

    def _quiet(self) -> None:
        """All faults are over, and what was on its way has arrived: a run is a clean one."""
        self.clock.on_step = lambda: None
        self.store.arrive(everything=True)
        if self.broken is not None:
            raise self.broken
        self.store.habits = Habits(self.kind.habits.conditions)
        self.store.down_until = 0.0
        self.clock.stalls = 0.0
        self.deadly = 0.0
        # Until then the lease of a holder that died may hold.
        self.clock.seconds += 2 * DAY if self.clocks_jump else 600.0
        if not self.checks.input():
            self._change("in/shard-0.tar")
        process = Process(len(self.processes) + 1, "C")
        self.processes.append(process)
        self.clock.run((process, self._night))
        report = process.outcome
        if isinstance(report, BaseException):
            raise wrong(f"the run after quiet: {type(report).__name__}: {report}") from report
        assert isinstance(report, RunReport)
        if report.exit_code != 0 or not report.latest.moved:
            raise wrong(f"the run after quiet ends with {report.exit_code}: {report.latest}")
        self.checks.newest_is(report.manifest)
        self.checks.kept = 1
        self.checks.manifests()
        self._clean(report)

    def _clean(self, report: RunReport) -> None:
        reader = Process(len(self.processes) + 1, "C")
        self.clock.run((reader, self._read))
        if reader.outcome is not None:
            raise wrong(f"a reader after quiet: {reader.outcome}")
        assert report.manifest is not None
        self.checks.same_as_a_clean_run(report.manifest)
