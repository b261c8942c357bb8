"""``cambox probe`` on pictures whose colours are their classes: what it stores and learns."""

from __future__ import annotations

import io
import json
import random
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import cambox
from cambox.cli import app
from cambox.config_file import load_config
from cambox.models.load import load_classifier
from cambox.sources.load import squash
from cambox.verify.verify import verify
from fault_driver import drive
from fault_points import POINTS, Signal
from fault_runs import visible
from makers import write_tar

NAMES = ("red", "green", "blue")
SIDE = 64


def picture(generator: np.random.Generator, labels: Sequence[int]) -> bytes:
    """Noise, with a block of each class's colour."""
    pixels = generator.integers(60, 120, (SIDE, SIDE, 3))
    for label in labels:
        top, left = generator.integers(4, SIDE - 34, 2)
        pixels[top : top + 30, left : left + 30, label] = generator.integers(220, 256)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_shards(
    folder: Path,
    labels: Sequence[Sequence[int]],
    in_a_shard: int = 30,
    seed: int = 0,
    given: Mapping[int, Sequence[int]] | None = None,
) -> None:
    """Pictures of these labels; ``given`` says otherwise of some."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for first in range(0, len(labels), in_a_shard):
        members = []
        for number, some in enumerate(labels[first : first + in_a_shard], first):
            members.append((f"p{number:04d}.png", picture(generator, some)))
            members.append(
                (f"p{number:04d}.cls", " ".join(map(str, (given or {}).get(number, some))).encode())
            )
        write_tar(folder / f"shard-{first // in_a_shard:06d}.tar", members)
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in NAMES))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of 1000 other classes; random features tell colours apart well enough."""
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    torch.manual_seed(3)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def config(folder: Path, weights: Path, **more: Any) -> Path:
    document = {
        "input": {"shards": [str(folder / "shards" / "*.tar")]},
        "model": {"name": "test_resnet", "checkpoint": str(weights), "input_size": SIDE},
        "cam": {"classes": "both", "top_k": 5},
        "output": {"uri": str(folder / "boxes")},
        "engine": {"cpus_per_worker": 1},
    } | more
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    write_shards(folder / "shards", [[number % 3] for number in range(90)])
    command("probe", config(folder, weights), "--to", folder / "probe")
    return folder


def features_folder(folder: Path) -> Path:
    (recipe,) = (folder / "probe" / "features").glob("[0-9a-f]*")
    return recipe


def test_the_features_are_what_the_network_pools(probed: Path, weights: Path) -> None:
    network = timm.create_model("test_resnet").eval()
    network.load_state_dict(safetensors.torch.load_file(weights))
    table = cambox.read(str(probed / "probe" / "features")).to_table().sort_by("key")
    classifier = load_classifier(load_config(probed / "config.yaml").model)
    mean, std = classifier.preprocessing.mean, classifier.preprocessing.std
    generator = np.random.default_rng(0)
    images = [Image.open(io.BytesIO(picture(generator, [number % 3]))) for number in range(90)]
    pixels = torch.from_numpy(np.stack([np.array(one) for one in images])).permute(0, 3, 1, 2) / 255
    batch = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.inference_mode():
        cells = network.forward_features(batch)
        expected = network.forward_head(cells, pre_logits=True)
    stored = np.array(table["features"].to_pylist())
    assert np.allclose(stored, expected, rtol=2e-3, atol=2e-3)
    # Of a map of two by two cells all are at the border, and there is nothing inside.
    assert cells.shape[2:] == (2, 2)
    assert set(map(len, table["border_features"].to_pylist())) == {0}
    assert table["objects"].to_pylist() == [[]] * 90
    assert table["labels"].to_pylist() == [[number % 3] for number in range(90)]
    assert verify(str(probed / "probe" / "features")).ok


def test_borders_are_the_mean_of_the_outermost_cells(tmp_path: Path, weights: Path) -> None:
    write_shards(tmp_path / "shards", [[0], [1]] * 3)
    path = config(tmp_path, weights)
    command(
        "annotate",
        path,
        "--set",
        "cam.classes=none",
        "--set",
        "output.store_features=true",
        "--set",
        "model.input_size=160",
    )
    (row, *_) = cambox.read(str(tmp_path / "boxes")).to_table().to_pylist()
    classifier = load_classifier(load_config(path, ["model.input_size=160"]).model)
    image = np.array(Image.open(io.BytesIO(picture(np.random.default_rng(0), [0]))))
    cells = classifier.scores(squash(image, 160, 160)[None]).feature_map[0].numpy()
    edge = np.concatenate(
        [cells[:, 0], cells[:, -1], cells[:, 1:-1, 0], cells[:, 1:-1, -1]], axis=1
    )
    assert cells.shape[1:] == (5, 5)
    assert np.allclose(row["border_features"], edge.mean(axis=1), rtol=2e-3, atol=2e-3)
    assert np.allclose(row["features"], cells.mean(axis=(1, 2)), rtol=2e-3, atol=2e-3)
    assert verify(str(tmp_path / "boxes")).ok


def test_features_stay_where_maps_become_other_boxes(tmp_path: Path, weights: Path) -> None:
    write_shards(tmp_path / "shards", [[0], [1]] * 3)
    path = config(tmp_path, weights, output={"uri": str(tmp_path / "boxes"), "store_maps": True})
    command("annotate", path, "--set", "cam.classes=predicted", "--set", "output.store_features=1")
    before = cambox.read(str(tmp_path / "boxes")).to_table()
    for to, arguments in (
        ("other", ["rebox", "--set", "boxes.threshold=0.7"]),
        ("both", ["fuse", tmp_path / "boxes"]),
    ):
        name, *more = arguments
        command(name, tmp_path / "boxes", *more, "--to", tmp_path / to)
        assert verify(str(tmp_path / to)).ok, to
    after = cambox.read(str(tmp_path / "other")).to_table()
    assert after["features"].equals(before["features"])
    assert not after["objects"].equals(before["objects"])
    assert "features" not in cambox.read(str(tmp_path / "both")).schema.names


def test_what_is_written_annotates(probed: Path) -> None:
    report = json.loads((probed / "probe" / "report.json").read_text())
    assert report["activation"] == "softmax"
    assert report["pictures"] == 90
    assert report["held_out"]["accuracy"] > 0.8  # by chance 0.33
    assert (probed / "probe" / "class_names.txt").read_text().split() == list(NAMES)
    output = command("annotate", probed / "probe" / "recipe.yaml")
    assert "90 rows" in output
    rows = cambox.read(str(probed / "boxes")).to_table().to_pylist()
    best = [row["classes"][0]["class_id"] for row in rows]
    assert np.mean([one in row["labels"] for one, row in zip(best, rows, strict=True)]) > 0.85
    names = {one["class_id"]: one["class_name"] for row in rows for one in row["objects"]}
    assert names
    assert all(NAMES[index] == name for index, name in names.items())
    # The probabilities are those of the layer that was written, over the stored features.
    tensors = safetensors.numpy.load_file(probed / "probe" / "classifier.safetensors")
    features = cambox.read(str(probed / "probe" / "features")).to_table(columns=["key", "features"])
    of_key = dict(zip(features["key"].to_pylist(), features["features"].to_pylist(), strict=True))
    for row in rows[:10]:
        logits = tensors["fc.weight"] @ np.array(of_key[row["key"]]) + tensors["fc.bias"]
        chances = np.exp(logits - logits.max())
        expected = np.sort(chances / chances.sum())[::-1]
        assert np.allclose([one["probability"] for one in row["classes"]], expected, atol=2e-3)


def test_a_label_that_was_given_wrong_is_shown_first(tmp_path: Path, weights: Path) -> None:
    write_shards(tmp_path / "shards", [[number % 3] for number in range(60)], given={37: [2]})
    command("probe", config(tmp_path, weights), "--to", tmp_path / "probe")
    command(
        *("gallery", tmp_path / "probe" / "features", "--to", tmp_path, "--sample", 1),
        *("--suspects", tmp_path / "probe" / "suspects.parquet"),
    )
    page = (tmp_path / "gallery.html").read_text()
    assert "First stand 1 of " in page
    (doubt,) = re.findall(r'"key":"p0037".*?"doubts":\[(\{.*?\})\]', page)
    assert json.loads(doubt)["class_name"] == "blue"
    assert json.loads(doubt)["likelier"] == "green"


def test_a_rerun_reads_only_what_is_new(probed: Path, tmp_path: Path) -> None:
    before = visible(features_folder(probed))
    first = safetensors.numpy.load_file(probed / "probe" / "classifier.safetensors")
    # Boxes may be set otherwise, and the features stay.
    again = ["--set", "boxes.threshold=0.6", "--set", "cam.top_k=2"]
    output = command("probe", probed / "config.yaml", "--to", probed / "probe", *again)
    assert "features of 0 shards read; 3 were there" in output
    assert visible(features_folder(probed)) == before
    second = safetensors.numpy.load_file(probed / "probe" / "classifier.safetensors")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert load_config(probed / "probe" / "recipe.yaml").boxes.threshold == 0.6


def test_several_labels_and_pictures_without_any(tmp_path: Path, weights: Path) -> None:
    labels = [[], [0], [1, 2], [0, 1], [2]] * 24
    write_shards(tmp_path / "shards", labels)
    path = config(tmp_path, weights)
    to = tmp_path / "probe"
    command("probe", path, "--to", to, "--background", "nothing")
    recipe = load_config(to / "recipe.yaml")
    assert (recipe.model.activation, recipe.cam.background) == ("sigmoid", "nothing")
    report = json.loads((to / "report.json").read_text())
    assert [one["pictures"] for one in report["classes"]] == [48, 48, 48, 24]
    assert report["held_out"]["mean_average_precision"] > 0.7
    assert (to / "class_names.txt").read_text().split() == [*NAMES, "nothing"]
    # The list beside the shards has three classes, to which the probe has added one.
    command("annotate", to / "recipe.yaml", "--set", "output.uri=" + str(tmp_path / "given"))
    command("annotate", to / "recipe.yaml", "--set", "cam.classes=predicted")
    rows = cambox.read(str(tmp_path / "boxes")).to_table().to_pylist()
    boxed = [{one["class_name"] for one in row["objects"]} for row in rows]
    assert not any("nothing" in names for names in boxed)
    for row, names in zip(rows, boxed, strict=True):
        chance = {
            [*NAMES, "nothing"][one["class_id"]]: one["probability"] for one in row["classes"]
        }
        assert all(chance[name] >= chance["nothing"] for name in names)
    empty = [names for names, row in zip(boxed, rows, strict=True) if row["labels"] == []]
    others = [names for names, row in zip(boxed, rows, strict=True) if row["labels"]]
    assert np.mean(list(map(len, empty))) < np.mean(list(map(len, others)))


def test_names_are_the_networks_own_where_labels_count_as_many(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [[0], [1], [2]] * 4)
    (tmp_path / "shards" / "class_names.txt").rename(tmp_path / "names.txt")
    model = {"name": "test_resnet", "kwargs": {"num_classes": 3}, "input_size": SIDE}
    path = config(tmp_path, Path("-"), model=model | {"class_names": str(tmp_path / "names.txt")})
    for overrides, names in (
        ([], list(NAMES)),
        (["--set", "model.class_names=null"], ["0", "1", "2"]),
        (["--set", "input.class_names=[a, b, c, d]"], ["a", "b", "c", "d"]),
    ):
        command("probe", path, "--to", tmp_path / "probe", *overrides)
        assert (tmp_path / "probe" / "class_names.txt").read_text().split() == names


def test_wrong_requests_say_what_to_do(tmp_path: Path, weights: Path) -> None:
    write_shards(tmp_path / "shards", [[0]] * 6)
    path = config(tmp_path, weights)

    def refused(*more: str) -> str:
        result = CliRunner().invoke(app, ["probe", str(path), "--to", str(tmp_path / "p"), *more])
        assert result.exit_code != 0
        return str(result.exception)

    assert "show 1 classes (6 pictures" in refused()
    assert "lists 2 classes, and p0000 of" not in refused("--set", "input.class_names=[a, b]")
    (tmp_path / "shards" / "class_names.txt").unlink()
    write_tar(
        tmp_path / "shards" / "b.tar",
        [("q.png", picture(np.random.default_rng(1), [1])), ("q.cls", b"1")],
    )
    assert "one picture each is of 1" in refused()
    assert "lists 1 classes, and q of" in refused("--set", "input.class_names=[a]")
    assert "model.name: the classes of torchvision/squeezenet1_1" in refused(
        "--set", "model.name=torchvision/squeezenet1_1", "--set", "model.checkpoint=null"
    )


def test_a_probe_killed_again_and_again_ends_with_the_same_weights(
    tmp_path: Path, weights: Path
) -> None:
    write_shards(tmp_path / "shards", [[number % 3] for number in range(60)], in_a_shard=3)
    path = config(tmp_path, weights)
    command("probe", path, "--to", tmp_path / "clean")
    moments = random.Random(20261127)
    for turn in range(4):
        shard = f"shard-{moments.randrange(turn * 5, turn * 5 + 5):06d}.tar"
        kill = Signal({shard: moments.choice(POINTS)}, tmp_path / f"marks-{turn}")
        arguments = ["probe", str(path), "--to", str(tmp_path / "killed")]
        assert drive(arguments, kill, tmp_path / "log") == -signal.SIGKILL
        assert not (tmp_path / "killed" / "classifier.safetensors").exists()
    assert drive(arguments, None, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    for name in ("classifier.safetensors", "report.json", "class_names.txt"):
        files = [tmp_path / folder / name for folder in ("clean", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    suspects = [
        pq.read_table(tmp_path / folder / "suspects.parquet") for folder in ("clean", "killed")
    ]
    assert suspects[0].equals(suspects[1])
