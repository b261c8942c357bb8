"""Simulated processes that take turns, and the one clock that all of them live by.

Each process is a thread, of which one at a time goes on: at every step, which is a question to a
storage, the seed says who is next. So a history is a function of its seed, and nothing waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MOST_STEPS = 20_000
# As often the turn passes to another at a step.
SHARE_OF_TURNS = 0.3
STALL_SECONDS = 3600.0


class CrashError(BaseException):
    """The process is gone, as by kill -9; nothing that it does afterwards has an effect."""


class EndlessError(AssertionError):
    """A history that does not come to its end."""


def _locked() -> threading.Lock:
    """One that waits to be released, by whatever thread."""
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class Process:
    """A simulated process.

    Attributes:
        ahead: of its clock, before the true time.
        crash_at: the step at which it dies; None: it does not.
        after: it dies once that step has had its effect, and not before.
        every: what it does in passing, with the seconds between, and when it is due.
        waits_until: seconds; before that it does not go on.
    """

    number: int
    machine: str
    ahead: timedelta = timedelta()
    crash_at: int | None = None
    after: bool = False
    steps: int = 0
    dead: bool = False
    ended: bool = False
    every: list[Chore] = field(default_factory=list)
    waits_until: float = 0.0
    outcome: object = None
    turn: threading.Lock = field(default_factory=_locked)


@dataclass(eq=False)
class Chore:
    """Something that a thread of a process would do now and then."""

    seconds: float
    due: float
    do: Callable[[], bool]


class Clock:
    """The true time, and whose turn it is.

    Attributes:
        stalls: the share of steps before which a process stands still, up to an hour, its threads
            with it: what it then writes comes late.
        reading: how many processes are reading a shard.
    """

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.seconds = 0.0
        self.steps = 0
        self.stalls = 0.0
        self.reading = 0
        self.current: Process | None = None
        self.running: list[Process] = []
        self.on_step: Callable[[], None] = lambda: None
        self._all_ended = _locked()

    @property
    def true_now(self) -> datetime:
        """The true time."""
        return BEGIN + timedelta(seconds=self.seconds)

    def now(self) -> datetime:
        """The time by the clock of the process whose turn it is."""
        ahead = self.current.ahead if self.current is not None else timedelta()
        return self.true_now + ahead

    def run(self, *work: tuple[Process, Callable[[], object]]) -> None:
        """Let processes do their work at once, until all have ended or died."""
        threads = []
        for process, do in work:
            self.running.append(process)
            threads.append(threading.Thread(target=self._life, args=(process, do), daemon=True))
        for thread in threads:
            thread.start()
        self._pass_on()
        self._all_ended.acquire()
        for thread in threads:
            thread.join()

    def _life(self, process: Process, do: Callable[[], object]) -> None:
        process.turn.acquire()
        try:
            process.outcome = do()
        except BaseException as error:  # noqa: BLE001  the history judges it
            process.outcome = error
        process.ended = True
        self.running.remove(process)
        if self.running:
            self._pass_on()
        else:
            self.current = None
            self._all_ended.release()

    def _pass_on(self) -> None:
        ready = [one for one in self.running if one.waits_until <= self.seconds]
        if not ready:
            soonest = min(self.running, key=lambda one: one.waits_until)
            self.seconds = max(self.seconds, soonest.waits_until)
            ready = [soonest]
        self.current = self.chance.choice(ready)
        self.current.turn.release()

    def step(self) -> None:
        """A moment at which the process may die, or another may go on in its place."""
        process = self.current
        if process is None:
            return
        if process.dead:
            raise CrashError
        self.steps += 1
        if self.steps > MOST_STEPS:
            process.dead = True
            raise EndlessError(f"more than {MOST_STEPS} steps")
        self.seconds += self.chance.random() * 0.2
        process.steps += 1
        if process.steps == process.crash_at and not process.after:
            self.die()
        self.on_step()
        if self.stalls and self.chance.random() < self.stalls:
            self._wait(process, self.seconds + self.chance.random() * STALL_SECONDS)
        elif len(self.running) > 1 and self.chance.random() < SHARE_OF_TURNS:
            self._hand_over(process)
        self._chores(process)

    def stepped(self) -> None:
        """The step has had its effect."""
        process = self.current
        if process is not None and process.steps == process.crash_at and process.after:
            self.die()

    def die(self) -> None:
        """End the process whose turn it is, whatever it is at."""
        assert self.current is not None
        self.current.dead = True
        raise CrashError

    def sleep(self, seconds: float) -> None:
        """Let time pass for this process."""
        process = self.current
        if process is None:
            self.seconds += seconds
            return
        if process.dead:
            raise CrashError
        # What it does now and then is done meanwhile, too.
        end = self.seconds + seconds
        while process.every and (due := min(one.due for one in process.every)) < end:
            self._wait(process, due)
            self._chores(process)
        self._wait(process, end)

    def _wait(self, process: Process, until: float) -> None:
        process.waits_until = until
        if len(self.running) > 1:
            self._hand_over(process)
        self.seconds = max(self.seconds, until)

    def _hand_over(self, process: Process) -> None:
        self._pass_on()
        process.turn.acquire()

    def _chores(self, process: Process) -> None:
        if not process.every:
            return
        for chore in [one for one in process.every if one.due <= self.seconds]:
            process.every.remove(chore)
            if chore.do():
                chore.due = self.seconds + chore.seconds
                process.every.append(chore)
