"""The configuration is strict, and its errors name the key and the remedy in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from cambox.cli.recipes import settings_page
from cambox.config import Config
from cambox.config_cam import (
    AgreementSettings,
    CalibrationSettings,
    PoolingSettings,
    RefineSettings,
    ZoomSettings,
)
from cambox.config_file import load_config, recipe_names, recipe_text
from cambox.demo import CLASSIFIER, write_config
from cambox.errors import RequestError
from makers import ROOT

MINIMAL = "input: {shards: a.tar}\nmodel: {name: resnet18}\noutput: {uri: out}\n"


# Each stands for nine of the one before it.
BOMB = "a: &a [1, 2, 3]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


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


def test_weights_on_the_command_line_take_the_place_of_the_files(tmp_path: Path) -> None:
    library = MINIMAL.replace("resnet18}", "resnet18, pretrained: true}")
    own = MINIMAL.replace("resnet18}", "resnet18, checkpoint: a.pth}")

    def weights(text: str, *overrides: str) -> tuple[bool, str | None]:
        model = load(tmp_path, *overrides, text=text).model
        return model.pretrained, model.checkpoint

    assert weights(library, "model.checkpoint=b.pth") == (False, "b.pth")
    assert weights(own, "model.pretrained=true") == (True, None)
    assert weights(library, "model.checkpoint=null") == (True, None)
    assert weights(own, "model.pretrained=false") == (False, "a.pth")
    both = ("model.checkpoint=b.pth", "model.pretrained=true")
    with pytest.raises(RequestError, match="exclude each other"):
        weights(MINIMAL, *both)


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
        (
            "cam.classes=predict",
            "cam.classes: .*'predicted', 'label', 'both' or 'none', got 'predict'",
        ),
        ("cam.ranks=[7]", r"cam: ranks \[7\] .* top_k=5; raise top_k"),
        ("cam.shift={median: 1}", "cam.shift: .*global_min"),
        ("engine.batch_size=big", "engine.batch_size: .*'auto', got 'big'"),
        ("input.labels=json", "input.labels: must be cls or json:<field>, got 'json'"),
        ("input.shards=[]", "input: shards is missing, or images .*; set it"),
        ("model.std=[1, 0, 1]", "model.std: must be above zero"),
        ("model={}", "model.name: missing; set it in the file or with --set model.name="),
        ("model={name: x, checkpoint: y, pretrained: true}", "exclude each other; remove one"),
        ("cam=3", "cam: .*got 3"),
        ("cam.top_k", "--set cam.top_k: expected section.key=value"),
        ("cam.top_k.x=1", "cam.top_k"),
        ("cam.top_k=[", "--set .* not YAML"),
        ("model.kwargs={when: 2026-01-31}", "model.kwargs: takes numbers, texts, .* date"),
        ("model.kwargs={drop_rate: .nan}", "model.kwargs: takes numbers"),
        ("model.kwargs={checkpoint_path: x}", "model.kwargs: checkpoint_path is not allowed"),
        ("model.input_size=100000", "model.input_size: .* less than or equal to 16384"),
        ("engine.cpus_per_worker=100000", "engine.cpus_per_worker: .* less than or equal to 4096"),
        ("cam={offset: auto, refine: {steps: 1}}", "cam.offset is of .*; set cam.offset to 0, or"),
        ("cam.offset=2", "cam.offset: .*less than or equal to 1"),
        ("cam.top_k=2026-13-45", "--set cam.top_k: the value is not YAML"),
        ("cam.top_k='" + 300 * "x" + "'", r"cam.top_k: .*, got 'x+ \.\.\.$"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        load(tmp_path, override)
    assert "\n" not in str(refusal.value)


def test_all_wrong_keys_are_named_and_each_is_blamed_on_where_it_stands(tmp_path: Path) -> None:
    text = MINIMAL + "cam: {topk: 3, shfit: 0, top_k: 0}\nboxes: {threshold: 2}\n"
    with pytest.raises(RequestError) as refusal:
        load(tmp_path, "boxes.treshold=0.3", "cam.top_k=-1", "engine.batch_size=big", text=text)
    of_file, of_command = str(refusal.value).split(" | --set ")
    path, problems = of_file.split("run.yaml: ")
    assert path == f"{tmp_path}/"
    unknown, wrong = problems.split(" | "), of_command.split(" | ")
    assert unknown[0] == "cam.topk: unknown key; did you mean top_k?"
    assert unknown[1] == "cam.shfit: unknown key; did you mean shift?"
    assert unknown[2].startswith("boxes.threshold: Input should be less than or equal to 1, got 2")
    assert len(unknown) == 3
    assert wrong[0].startswith("cam.top_k: Input should be greater than or equal to 1, got -1")
    assert wrong[1] == "boxes.treshold: unknown key; did you mean threshold?"
    assert wrong[2].startswith("engine.batch_size: ")
    assert len(wrong) == 3

    with pytest.raises(RequestError, match=r"^--set cam\.topk: unknown key; did you mean top_k\?$"):
        load(tmp_path, "cam.topk=1")
    # What the file lacks is the file's affair, whatever else is set.
    with pytest.raises(RequestError, match=r"^.*run\.yaml: model: missing; set it in the file"):
        load(tmp_path, "cam.top_k=1", text="input: {shards: a.tar}\noutput: {uri: out}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- 1", "expected sections"),
        ("", "expected sections"),
        (100_000 * "[", "not YAML: nested too deep"),
        (MINIMAL + "x: " + 200 * "[" + 200 * "]", "not YAML: line 4: nested too deep"),
        (MINIMAL + "x: 2026-13-45", "not YAML: month must be in 1..12"),
        (MINIMAL + "x: !!int y", "not YAML: invalid literal"),
        (MINIMAL + "x: " + 5000 * "9", "not YAML: line 4: a number of over 1000 digits"),
        (MINIMAL + "x: &x [*x]", "not YAML: line 4: it holds itself"),
        (MINIMAL + BOMB, r"not YAML: line \d+: its aliases stand for too much"),
        (MINIMAL + BOMB.replace("[", "{<<: [").replace("]", "]}"), "stand for too much"),
        (MINIMAL + r'x: "a\0b"', "not YAML: line 4: a text with a NUL"),
        (MINIMAL + r'x: "\ud800"', "not YAML: line 4: a text with a NUL or half a character"),
        (4_000_001 * "#", "not YAML: longer than 4000000 characters"),
        (MINIMAL + "".join(f"x{number}: 1\n" for number in range(999)), "and 979 more"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(tmp_path, text=text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_valid_and_says_in_one_line_what_it_is_for(name: str) -> None:
    assert load_config(name).input.shards
    first, second = recipe_text(name).splitlines()[:2]
    assert re.fullmatch(r"# [A-Z0-9].{20,90}\.", first)
    assert second.startswith("#")


def test_labels_start_from_the_maps_and_boxes_of_precise() -> None:
    labels, precise = (load_config(name) for name in ("labels", "precise"))
    assert labels.cam.classes == "label"
    assert labels.model == precise.model
    for name in ("refine", "centre", "pooling", "truncate", "shift", "zoom"):
        assert getattr(labels.cam, name) == getattr(precise.cam, name)
    # Only predicted classes compete for one object.
    assert labels.boxes == precise.boxes.model_copy(update={"suppress_overlap": None})


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_of_plain_maps_says_that_it_is_quick_and_what_it_costs(name: str) -> None:
    cam, head = load_config(name).cam, recipe_text(name).partition("input:")[0]
    if not cam.refine.steps and cam.zoom is None and name != "demo":
        assert "quick" in head
        assert "coarse" in head or "a box in the middle" in head


def test_the_recipes_are_the_files_of_configs() -> None:
    files = {path.stem: path.read_text() for path in (ROOT / "configs").glob("*.yaml")}
    assert {name: recipe_text(name) for name in recipe_names()} == files
    assert {"demo", "labels", "precise", "nightly"} <= files.keys()


def test_a_file_goes_before_a_recipe_and_a_recipe_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("precise").mkdir()
    assert load_config("precise").model.input_size == 448
    Path("precise").rmdir()
    Path("precise").write_text(MINIMAL)
    assert load_config("precise").model.input_size is None


def test_the_demos_recipe_is_written_for_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert write_config(Path("demo")) == load_config("demo")
    assert Path("demo/classifier.safetensors").read_bytes() == CLASSIFIER.read_bytes()
    odd = Path('a "b" #c: é\\{d}')
    odd.mkdir()
    written = write_config(odd)
    assert written.model.checkpoint == f"{odd}/classifier.safetensors"
    assert written.input.shards == [f"{odd}/shards/shard-*.tar"]
    assert (written.cam, written.boxes) == (load_config("demo").cam, load_config("demo").boxes)


def test_the_page_of_settings_is_what_the_settings_say() -> None:
    page = ROOT / "docs" / "settings.md"
    assert page.read_text() == settings_page(), "run: cambox recipes --settings > docs/settings.md"


def test_every_setting_is_on_the_page_with_its_meaning() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+?) \| (.+?) \| (.+) \|$", settings_page(), re.M)
    named = {key: (default, meaning) for key, _, default, meaning in rows}
    sections: list[tuple[str, type[BaseModel]]] = [
        ("boxes.calibration.", CalibrationSettings),
        ("cam.pooling.", PoolingSettings),
        ("cam.refine.", RefineSettings),
        ("cam.zoom.", ZoomSettings),
        ("cam.zoom.agreement.", AgreementSettings),
        *((f"{name}.", field.annotation) for name, field in Config.model_fields.items()),  # type: ignore[misc]
    ]
    expected = {prefix + name for prefix, section in sections for name in section.model_fields}
    assert named.keys() == expected
    assert all(len(meaning) > 8 for _, meaning in named.values())
    assert named["boxes.threshold"][0] == "`0.35`"
    assert named["model.name"][0] == "must be given"


def test_weights_are_named_in_one_place_only(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"kwargs: checkpoint_path is not allowed; name the fil"):
        load_config("precise", ["model.kwargs={checkpoint_path: evil.pth}"])


def test_aliases_stand_for_what_they_name(tmp_path: Path) -> None:
    text = MINIMAL.replace("out}", "out, storage_options: &o {key: k}}")
    config = load(tmp_path, text=text.replace("a.tar}", "a.tar}") + "cam: &c {top_k: 3}\n")
    assert config.output.storage_options == {"key": "k"}
    text = "output: {uri: out, storage_options: &o {key: k}}\n" + text.partition("output")[0]
    config = load(tmp_path, text=text.replace("a.tar}", "a.tar, storage_options: *o}"))
    assert config.input.storage_options == {"key": "k"}


@pytest.mark.parametrize("value", ["'key: hunter2'", "[{key: hunter2}]", "{key: hunter2"])
def test_what_is_wrong_with_credentials_is_told_without_them(tmp_path: Path, value: str) -> None:
    with pytest.raises(RequestError, match=r"output\.storage_options") as refusal:
        load(tmp_path, f"output.storage_options={value}")
    assert "hunter2" not in str(refusal.value)
