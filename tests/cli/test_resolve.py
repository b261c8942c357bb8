"""A recipe that an earlier run resolved is known again, as long as all that it depends on is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file

import cambox.resolve
import cambox.run
from cambox.config import Config
from cambox.errors import RequestError
from cambox.output.footer import Recipe
from cambox.resolve import RECIPES_KEPT, recipe_key, remember, remembered
from cambox.run import plan_only, run
from conftest import ConfigMaker

QUIET = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cambox" / "recipes"


def weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), path)


@pytest.fixture
def make(make_config: ConfigMaker, tmp_path: Path) -> ConfigMaker:
    """The tiny network, with a checkpoint and a file of class names."""
    weights(tmp_path / "a.safetensors", 0)
    (tmp_path / "names.txt").write_text("".join(f"class {index}\n" for index in range(10)))
    (tmp_path / "groups.yaml").write_text("low: [0-4]\nhigh: [class 5, 6]\nrest: [7-9]\n")
    files = (
        f"model.checkpoint={tmp_path}/a.safetensors",
        f"model.class_names={tmp_path}/names.txt",
        f"model.class_groups={tmp_path}/groups.yaml",
    )
    return lambda *overrides: make_config(*files, *overrides)


def no_model(config: Config, retried: frozenset[str]) -> None:
    raise AssertionError("a model was loaded")


def test_what_a_run_resolved_is_planned_without_its_model(
    make: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run(make(), QUIET)
    monkeypatch.setattr(cambox.run, "make_engine", no_model)
    output = io.StringIO()
    recipe, work = plan_only(make("engine.batch_size=7"), Console(file=output, width=200))
    assert recipe == summary.recipe
    assert len(work.done) == 3
    assert output.getvalue() == f"3 shards: 0 new, 0 changed, 3 done; recipe {recipe.folder}\n"
    # Another output, of which only its own footers tell what is done.
    assert len(plan_only(make("output.uri=memory://elsewhere"), QUIET)[1].new) == 3
    with pytest.raises(AssertionError, match="a model was loaded"):
        plan_only(make("cam.top_k=2"), QUIET)


def test_a_plan_keeps_what_it_resolved(make: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, _ = plan_only(make(), QUIET)
    monkeypatch.setattr(cambox.run, "make_engine", no_model)
    assert plan_only(make(), QUIET)[0] == recipe


def test_a_plan_of_a_cluster_needs_no_cluster_then(
    make: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = run(make(), QUIET).recipe
    on_ray = make("engine.name=ray")
    assert remembered(recipe_key(on_ray)) is None
    remember(recipe_key(on_ray), recipe)
    monkeypatch.setattr(cambox.run, "make_engine", no_model)
    assert len(plan_only(on_ray, QUIET)[1].done) == 3
    monkeypatch.setenv("RAY_ADDRESS", "ray://another:10001")
    assert remembered(recipe_key(on_ray)) is None


RECIPE = Recipe("{}", ("a", "b"), "44d7b1c1dd64e9b2")


@pytest.mark.parametrize(
    "override",
    [
        *("model.activation=sigmoid", "model.precision=bfloat16", "model.input_size=96"),
        *("cam.truncate=true", "cam.classes=label", "boxes.min_score=0.1"),
        *("input.labels=json:class", "input.max_pixels=1000", "output.store_maps=true"),
        *("engine.cpus_per_worker=2", "model.class_names=null", "model.checkpoint=null"),
    ],
)
def test_another_setting_is_another_recipe(make: ConfigMaker, override: str) -> None:
    assert recipe_key(make(override)) != recipe_key(make())


@pytest.mark.parametrize(
    "override",
    [
        *("output.uri=elsewhere", "input.shards=[a.tar]", "engine.batch_size=16"),
        *("engine.max_attempts=1", "input.max_sample_bytes=10", "input.fingerprint=content"),
    ],
)
def test_what_shapes_no_row_is_the_same_recipe(make: ConfigMaker, override: str) -> None:
    assert recipe_key(make(override)) == recipe_key(make())


def another_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights(folder / "a.safetensors", 1)


def another_class_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = folder / "names.txt"
    names.write_text(names.read_text().replace("class 3", "class x"))


def another_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = folder / "groups.yaml"
    groups.write_text(groups.read_text().replace("0-4", "0-3"))


def another_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = cambox.resolve.library_versions() | {"timm": "9.9"}
    monkeypatch.setattr(cambox.resolve, "library_versions", lambda: versions)


def another_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")


def other_cpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cambox.resolve, "usable_cpus", lambda: 1000)


@pytest.mark.parametrize(
    "change",
    [
        *(another_checkpoint, another_class_name, another_group, another_version),
        *(another_gpu, other_cpus),
    ],
)
def test_another_file_version_or_machine_is_not_known(
    make: ConfigMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    remember(recipe_key(make()), RECIPE)
    assert remembered(recipe_key(make())) is not None
    change(tmp_path, monkeypatch)
    assert remembered(recipe_key(make())) is None


def test_a_checkpoint_that_changes_while_it_is_loaded_is_not_known(
    make: ConfigMaker, tmp_path: Path
) -> None:
    before = recipe_key(make())
    weights(tmp_path / "a.safetensors", 1)
    remember(before, RECIPE)
    assert remembered(recipe_key(make())) is None


def test_a_checkpoint_whose_store_tells_only_its_size_is_not_remembered(
    make: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cambox.resolve, "fingerprint", lambda info: f"size={info['size']}")
    assert recipe_key(make()) is None
    remember(None, RECIPE)
    assert remembered(None) is None


@pytest.mark.parametrize("name", ["local-dir:mine", "hf-hub:timm/resnet18.a1_in1k"])
def test_a_model_that_can_change_under_its_name_is_not_remembered(
    make: ConfigMaker, name: str
) -> None:
    assert recipe_key(make(f"model.name={name}")) is None


def test_a_folder_of_a_model_is_the_same_recipe_wherever_it_lies(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    network = timm.create_model("test_resnet", num_classes=10)
    config = {"architecture": "test_resnet", "num_classes": 10}
    recipes = set()
    for place in ("here", "there"):
        folder = tmp_path / place / "mine"
        folder.mkdir(parents=True)
        save_file(network.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(
            json.dumps(config | {"pretrained_cfg": network.pretrained_cfg})
        )
        recipes.add(plan_only(make_config(f"model.name=local-dir:{folder}"), QUIET)[0])
    assert len(recipes) == 1


def test_a_list_of_the_shards_classes_counts_by_what_is_in_it(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    listed = tmp_path / "names.txt"
    config = make_config(f"input.class_names={listed}", f"input.shards={tmp_path}/*.tar")
    keys = set()
    for text in ("a\nb\n", "a\nc\n"):
        listed.write_text(text)
        keys.add(recipe_key(config))
    assert len(keys) == 2
    listed.unlink()
    with pytest.raises(RequestError, match=r"input\.class_names: .* cannot be read"):
        recipe_key(config)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"settings": "{}"}', '{"class_names": 3}'])
def test_a_cache_that_cannot_be_read_is_none(make: ConfigMaker, cache: Path, damage: str) -> None:
    key = recipe_key(make())
    remember(key, RECIPE)
    (entry,) = cache.iterdir()
    entry.write_text(damage)
    assert remembered(key) is None


def test_a_cache_that_cannot_be_written_is_none(make: ConfigMaker, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert plan_only(make(), QUIET)[0] == run(make(), QUIET).recipe
    assert remembered(recipe_key(make())) is None


def test_the_cache_does_not_grow_for_ever(cache: Path) -> None:
    for number in range(RECIPES_KEPT + 3):
        remember(f"key {number}", RECIPE)
    assert len(list(cache.iterdir())) == RECIPES_KEPT
    assert remembered(f"key {RECIPES_KEPT + 2}") is not None
    assert remembered("key 0") is None


@pytest.mark.parametrize("name", ["class_names", "class_groups"])
def test_a_list_without_an_end_is_refused(make_config: ConfigMaker, name: str) -> None:
    with pytest.raises(RequestError, match=rf"model.{name}: /dev/zero is longer than 4000000"):
        recipe_key(make_config(f"model.{name}=/dev/zero"))
