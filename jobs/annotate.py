"""What ``ray job submit`` runs: ``python -m jobs.annotate CONFIG [--set section.key=value ...]``.

The same as ``cambox annotate CONFIG --engine ray``; the driver needs one CPU and no GPU.
"""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["annotate", *sys.argv[1:], "--engine", "ray"]
    main()
