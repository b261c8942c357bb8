"""The configuration is strict, and its errors name the key and the remedy in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cambox.config import Config
from cambox.config_file import load_config
from cambox.demo import write_config
from cambox.errors import RequestError

MINIMAL = "input: {shards: a.tar}\nmodel: {name: resnet18}\noutput: {uri: out}\n"


def load(tmp_path: Path, *overrides: str, text: str = MINIMAL) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.input.shards == ["a.tar"]
    assert config.input.labels == "cls"
    assert (config.model.pretrained, config.model.precision) == (False, "auto")
    assert (config.cam.classes, config.cam.top_k, config.cam.truncate) == ("predicted", 5, False)
    assert (config.cam.pooling.kind, config.cam.pooling.threshold) == ("average", 0.1)
    boxes = config.boxes
    assert (boxes.threshold, boxes.percentile, boxes.max_boxes, boxes.min_area) == (
        0.35,
        90,
        3,
        0.01,
    )
    assert (config.engine.name, config.engine.max_attempts) == ("local", 3)


def test_overrides_are_yaml(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "cam.top_k=3",
        "model.kwargs={pad_type: same}",
        'input.shards=["a.tar", "b.tar"]',
        "cam.shift={global_min: 0.5}",
        "boxes.resolution=null",
        "model.input_size=[224, 320]",
    )
    assert config.cam.top_k == 3
    assert config.model.kwargs == {"pad_type": "same"}
    assert config.input.shards == ["a.tar", "b.tar"]
    assert config.cam.shift == {"global_min": 0.5}
    assert config.model.input_size == (224, 320)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cam.topk=3", "cam.topk: unknown key; did you mean top_k?"),
        ("cams.top_k=3", "cams: unknown key; did you mean cam?"),
        ("cam.pooling.kin=x", "cam.pooling.kin: unknown key; did you mean kind?"),
        ("boxes.threshold=2", "boxes.threshold: .* less than or equal to 1, got 2"),
        ("boxes.threshold=.nan", "boxes.threshold: .*finite"),
        ("cam.classes=predict", "cam.classes: .*'predicted', 'label' or 'both', got 'predict'"),
        ("cam.ranks=[7]", r"cam: ranks \[7\] .* top_k=5; raise top_k"),
        ("cam.shift={median: 1}", "cam.shift: .*global_min"),
        ("engine.batch_size=big", "engine.batch_size: .*'auto', got 'big'"),
        ("input.labels=json", "input.labels: must be cls or json:<field>, got 'json'"),
        ("input.shards=[]", "input.shards: .*at least 1 item"),
        ("model.std=[1, 0, 1]", "model.std: must be above zero"),
        ("model={}", "model.name: missing; set it in the file or with --set model.name="),
        ("model={name: x, checkpoint: y, pretrained: true}", "exclude each other; remove one"),
        ("cam=3", "cam: .*got 3"),
        ("cam.top_k", "--set cam.top_k: expected section.key=value"),
        ("cam.top_k.x=1", "cam.top_k"),
        ("cam.top_k=[", "--set .* not YAML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        load(tmp_path, override)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not YAML"), ("- 1", "expected sections"), ("", "expected sections")],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(tmp_path, text=text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_the_shipped_recipes_are_valid() -> None:
    configs = Path(__file__).parents[2] / "configs"
    recipes = sorted(configs.glob("*.yaml"))
    assert len(recipes) >= 5
    for recipe in recipes:
        assert load_config(recipe).input.shards


def test_the_demos_recipe_is_the_shipped_one(tmp_path: Path) -> None:
    shipped = load_config(Path(__file__).parents[2] / "configs" / "demo.yaml")
    written = write_config(tmp_path)
    ours, theirs = shipped.model_dump(), written.model_dump()
    for config in (ours, theirs):
        for place in ("checkpoint", "class_names"):
            config["model"][place] = Path(config["model"][place]).name
        config["input"]["shards"] = [Path(config["input"]["shards"][0]).name]
        config["output"]["uri"] = Path(config["output"]["uri"]).name
    assert ours == theirs
