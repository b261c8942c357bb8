"""Names of classes travel from the folders to the rows, and labels of other classes are refused."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from cambox.errors import RequestError
from cambox.output.footer import Recipe
from cambox.run import plan_only, run
from cambox.sources.class_list import difference
from cambox.sources.pack import pack
from conftest import ConfigMaker

NAMES = ("bag", "belt", "mug")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of pictures in folders of three classes, sixteen each."""
    root = tmp_path_factory.mktemp("products")
    generator = np.random.default_rng(0)
    for name in NAMES:
        (root / name).mkdir()
        for number in range(16):
            grain = generator.integers(0, 256, (48, 40, 3), dtype=np.uint8)
            Image.fromarray(grain).save(root / name / f"{number}.png")
    pack(root, root / "shards", samples_per_shard=24)
    return root / "shards"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
    return path


def of_run(make: ConfigMaker, shards: Path, *overrides: str) -> tuple[list[dict], str, Recipe]:
    output = io.StringIO()
    settings = (f"input.shards={shards}/*.tar", "model.kwargs={}", "cam.classes=label")
    summary = run(make(*settings, *overrides), Console(file=output, width=1000))
    rows = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    return rows, output.getvalue(), summary.recipe


def test_the_list_beside_the_shards_names_the_classes(
    make_config: ConfigMaker, folders: Path, checkpoint: Path
) -> None:
    own = ("cam.top_k=2", f"model.checkpoint={checkpoint}")
    rows, said, recipe = of_run(make_config, folders, *own)
    assert f"num_classes is 3, as in {checkpoint}" in said
    assert f"the labels' 3 classes are those of {folders}/class_names.txt" in said
    assert recipe.class_names == NAMES
    names = {
        (row["key"].partition("/")[0], box["class_name"]) for row in rows for box in row["objects"]
    }
    assert names == {(name, name) for name in NAMES}
    # A plan that knows the recipe knows the names; another list is another recipe.
    config = make_config(
        f"input.shards={folders}/*.tar", "model.kwargs={}", "cam.classes=label", *own
    )
    assert plan_only(config, Console(file=io.StringIO()))[0] == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["cam.top_k=2"],
            "lists 3 classes (bag, belt, mug), and the model has 1000 classes (tench, goldfish, "
            "great white shark, ...), so that labels would get boxes of other classes; set model.",
        ),
        (
            ["cam.classes=both", "model.kwargs={num_classes: 4}"],
            "and the model has 4 classes (0, 1, 2, ...), so",
        ),
        (
            ["model.class_names={tmp}/other.txt", "model.kwargs={num_classes: 3}"],
            "lists bag as class 0, and the model has it as class 1, so that",
        ),
        (
            ["model.class_groups={tmp}/groups.yaml"],
            "lists bag as class 0, and the model has it as class 1, so that",
        ),
    ],
)
def test_labels_of_other_classes_than_the_models_are_refused(
    make_config: ConfigMaker, folders: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "other.txt").write_text("belt\nbag\nmug\n")
    (tmp_path / "groups.yaml").write_text("mug: [3]\nbag: [1, 2]\nbelt: [5-9]\n")
    with pytest.raises(RequestError) as refusal:
        of_run(make_config, folders, *(one.replace("{tmp}", str(tmp_path)) for one in overrides))
    said = str(refusal.value)
    assert said.startswith(f"input.class_names: {folders}/class_names.txt lists ")
    assert message in said


def test_predicted_classes_have_the_models_own_names(
    make_config: ConfigMaker, folders: Path
) -> None:
    rows, _, recipe = of_run(make_config, folders, "cam.classes=predicted", "cam.top_k=1")
    assert recipe.class_names[:2] == ("tench", "goldfish")
    assert all(box["class_name"] not in NAMES for row in rows for box in row["objects"])


def test_codes_of_imagenets_folders_keep_its_names(
    make_config: ConfigMaker, folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders, tmp_path / "shards")
    listed = tmp_path / "shards" / "class_names.txt"
    listed.write_text("".join(f"n{number:08d}\n" for number in range(1000)))
    assert of_run(make_config, tmp_path / "shards")[2].class_names[:2] == ("tench", "goldfish")
    listed.write_text("".join(f"thing {number}\n" for number in range(1000)))
    assert of_run(make_config, tmp_path / "shards")[2].class_names[1] == "thing 1"


def test_shards_whose_lists_differ_are_refused(
    make_config: ConfigMaker, folders: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        shutil.copytree(folders, tmp_path / name)
    (tmp_path / "b" / "class_names.txt").write_text("x\ny\nz\n")
    with pytest.raises(RequestError, match=r"a/class_names.txt and .*b/class_names.txt differ"):
        of_run(make_config, tmp_path, f"input.shards=['{tmp_path}/a/*', '{tmp_path}/b/*.tar']")


def test_one_name_at_two_places_is_a_difference_and_codes_are_not() -> None:
    assert difference(["a", "b"], ["A", "b"]) is None
    assert difference(["n01", "n02"], ["tench", "goldfish"]) is None
    assert difference(["crane", "x", "crane"], ["crane", "y", "crane"]) is None
    assert difference(["a", "b"], ["b", "c"]) == "b as class 1, and the model has it as class 0"
