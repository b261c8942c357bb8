"""What ``ray job submit`` runs: ``python jobs/annotate.py CONFIG [--set section.key=value ...]``.

The same as ``cambox annotate CONFIG --engine ray``, from a checkout where cambox need not be
installed; the driver needs one CPU and no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

from cambox.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["annotate", *sys.argv[1:], "--engine", "ray"]
    main()
