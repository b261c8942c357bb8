"""The compiled kernel of this checkout, for copies of its code: compiling takes half a minute."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

CAMS = Path(__file__).resolve().parents[1] / "pipeline" / "cambox" / "cams"


def bring_compiled(package: Path) -> None:
    """Put what numba keeps beside the source there, if the source is the same to the byte.

    Args:
        package: a folder ``cambox``.
    """
    source, copy = CAMS / "kernel.py", package / "cams" / "kernel.py"
    if filecmp.cmp(source, copy, shallow=False):
        (copy.parent / "__pycache__").mkdir(exist_ok=True)
        for path in (CAMS / "__pycache__").glob("kernel.*.nb?"):
            shutil.copy(path, copy.parent / "__pycache__")
        # numba takes it for what has the same time.
        shutil.copystat(source, copy)
