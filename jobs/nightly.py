"""What runs every night: ``python jobs/nightly.py CONFIG [--set ...] [--date YYYY-MM-DD]``.

The same as ``cambox nightly``, from a checkout where cambox need not be installed. Under ``ray job
submit`` the driver needs one CPU and no GPU; ``--engine local`` needs no Ray.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

from cambox.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["nightly", *sys.argv[1:]]
    main()
