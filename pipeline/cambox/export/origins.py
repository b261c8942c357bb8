"""``shards.csv``: of each image in an export, the shard and the key it comes from."""

from __future__ import annotations

import csv
from pathlib import Path

from cambox.export.writer import Exported


class Origins:
    """Written row by row: image, shard, key."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "shards.csv").open("x", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(("image", "shard", "key"))

    def add(self, exported: Exported) -> None:
        """Where one image comes from."""
        self.rows.writerow((exported.file_name, exported.image.shard, exported.image.key))

    def close(self) -> None:
        """All is added."""
        self.file.close()
