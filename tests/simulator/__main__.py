"""Histories by hand.

``python -m tests.simulator SEED``: one, with what broke its promise;
``python -m tests.simulator FIRST COUNT [PROCESSES]``: many, and what came of them;
``python -m tests.simulator bugs``: after how many each planted bug is found.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .bugs import BUGS, found_after
from .disk import found_after as found_after_losses
from .history import History
from .world import at_full_speed

# So often it is said how far they are.
AT_ONCE = 1000
_number = 0


def _begin(numbers: Any) -> None:
    """A process that runs histories learns its number."""
    global _number
    _number = numbers.get()


def _histories(seeds: range) -> tuple[int, int, int]:
    """Run histories, and print each seed that breaks a promise; how many, steps, and failed."""
    steps = failed = 0
    with at_full_speed(_number):
        for seed in seeds:
            history = History(seed)
            try:
                history.run()
            except AssertionError as error:
                failed += 1
                print(f"seed {seed} ({history.kind.name}): {error}", flush=True)
            steps += history.clock.steps
    return len(seeds), steps, failed


def many(first: int, count: int, processes: int) -> int:
    """Run histories, say now and then how far they are, and give how many failed."""
    begin, end = time.monotonic(), first + count
    total = (0, 0, 0)
    parts = [range(at, min(at + AT_ONCE, end)) for at in range(first, end, AT_ONCE)]
    numbers: Any = multiprocessing.SimpleQueue()
    for number in range(processes):
        numbers.put(number)
    with multiprocessing.Pool(processes, _begin, (numbers,)) as pool:
        for part in pool.imap(_histories, parts):
            total = (total[0] + part[0], total[1] + part[1], total[2] + part[2])
            seconds = time.monotonic() - begin
            print(
                f"{total[0]} histories, {total[1]} steps, {total[2]} failed, {seconds:.0f} s, "
                f"{total[0] / seconds:.0f} a second, {processes} processes",
                flush=True,
            )
    return total[2]


def bugs() -> None:
    """Say after how many histories, or losses of power, each planted bug is found."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"the file's fsync is dropped: {found_after_losses(Path(folder))} losses of power")
    for name, plant in BUGS.items():
        found = found_after(plant)
        print(f"{name}: " + ("not found" if found is None else f"{found[0]}; {found[1]}"))


def main() -> None:
    """Do what the command line says."""
    if sys.argv[1] == "bugs":
        bugs()
    elif len(sys.argv) == 2:
        History(int(sys.argv[1])).run()
    else:
        first, count, processes = (*map(int, sys.argv[1:]), 1)[:3]
        sys.exit(many(first, count, processes) > 0)


if __name__ == "__main__":
    main()
