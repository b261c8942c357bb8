"""Pictures with known boxes, and a small classifier for them: no data and no network are needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cambox.config import Config
from cambox.config_file import load_config, recipe_text
from cambox.demo.scenes import write_scenes
from cambox.sources.pack import pack

# A ResNet with one narrow block a stage, and maps of 16x16 cells; research/ has its training.
CLASSIFIER = Path(__file__).with_name("classifier.safetensors")
PICTURES = 240
# The classifier was trained on the pictures of seeds from a million on.
FIRST_SEED = 0
SAMPLES_PER_SHARD = 60


def make_data(folder: Path, pictures: int = PICTURES) -> None:
    """Make what the recipe ``demo`` reads: shards of pictures, class names and the classifier.

    Beside them lie the pictures themselves, labels.csv, boxes.csv (the true boxes) and config.yaml.

    Args:
        pictures: each is made in about 10 ms.

    Raises:
        OSError: the folder cannot be written.
    """
    write_scenes(folder, range(FIRST_SEED, FIRST_SEED + pictures))
    pack(folder / "images", folder / "shards", folder / "labels.csv", SAMPLES_PER_SHARD)
    write_config(folder)


def write_config(folder: Path) -> Config:
    """Write the recipe ``demo`` for a folder of any name, and the classifier that it names."""
    # With its time, so that the copy is no other file to who remembers its recipe.
    shutil.copy2(CLASSIFIER, folder)
    inside = json.dumps(str(folder), ensure_ascii=False)[:-1]
    path = folder / "config.yaml"
    path.write_text(recipe_text("demo").replace('"demo/', f"{inside}/"), encoding="utf-8")
    return load_config(path)
