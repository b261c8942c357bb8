"""``python -m tests.simulator SEED``: one history; ``FIRST COUNT``: many, and what came of them."""

from __future__ import annotations

import sys
import time
import traceback

from .history import History


def main() -> None:
    """Run histories, and print each seed that breaks a promise."""
    first, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    begin, failed, steps = time.monotonic(), 0, 0
    for seed in range(first, first + count):
        history = History(seed)
        try:
            history.run()
        except AssertionError as error:
            failed += 1
            print(f"seed {seed} ({history.kind.name}): {error}", flush=True)
            if count == 1:
                traceback.print_exc()
        steps += history.clock.steps
    seconds = time.monotonic() - begin
    print(f"{count} histories, {steps} steps, {failed} failed, {count / seconds:.0f} a second")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
