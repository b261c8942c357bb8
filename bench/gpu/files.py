"""Where the kit's files lie, and the photographs put there; without torch, slow to import."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

DRY = os.environ.get("DRY", "0") not in ("", "0")
WORK = Path(os.environ.get("KIT_WORK", "gpu-kit"))
RESULTS = WORK / "results"
PHOTOS, REPEATED = WORK / "photos", WORK / "photos-repeated"
WEIGHTS = WORK / "mobilenetv2.safetensors"


def put_photographs(kit: Path) -> None:
    """The photographs with their labels, and a folder with each of them four times.

    A peer's images are those of a folder, so that one of many needs many.
    """
    PHOTOS.mkdir(parents=True)
    REPEATED.mkdir()
    chosen = sorted((kit / "photos").iterdir())[: 12 if DRY else None]
    for path in chosen:
        shutil.copy(path, PHOTOS / path.name)
        for copy in range(2 if DRY else 4):
            os.link(PHOTOS / path.name, REPEATED / f"{copy}-{path.name}")
    names = {path.name for path in chosen}
    first, *lines = (kit / "labels.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0] in names]
    (WORK / "labels.csv").write_text("\n".join([first, *kept]) + "\n")
    print(len(chosen), "photographs")
