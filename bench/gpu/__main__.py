"""The steps of the GPU kit that are not of ``python -m bench``: ``python -m bench.gpu STEP``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

# Each is imported when it is asked for: the project may lack a module that only another step needs.
STEPS = {
    "environment": "environment",
    "first": "environment",
    "sanity": "sanity",
    "labels": "labels",
    "precise": "runs",
    "actors": "runs",
    "memory": "runs",
    "profile": "profile",
    "forward": "limits",
    "jpeg": "limits",
    "under_load": "under_load",
    "ways": "ways",
    "sizing": "sizing",
    "put_photographs": "files",
    "summary": "summary",
}


def main(name: str, *given: str) -> None:
    """Do a step; what it is given are numbers, or a folder."""
    step = getattr(import_module(f"bench.gpu.{STEPS[name]}"), name)
    step(*(int(value) if value.isdigit() else Path(value) for value in given))
    # Not imported where a step has no use for torch, which takes ten seconds on a fresh machine.
    steps = sys.modules.get("bench.gpu.step")
    if steps is not None and steps.Step.failed:
        sys.exit(f"failed: {', '.join(steps.Step.failed)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
