"""Training a detector and applying it: killed, gone on with, and read by every other command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from rich.console import Console
from typer.testing import CliRunner

import cambox.detect.apply
import cambox.detect.training
from cambox.boxes import Boxes
from cambox.cli import app
from cambox.config import Config, ModelSettings
from cambox.detect import BoxWeights, DetectorKind
from cambox.detect.judge import Precision, precision
from cambox.detect.pictures import Parts, Pictures
from cambox.detect.processes import Processes
from cambox.detect.train import TrainRequest, train
from cambox.detect.training import Training
from cambox.errors import RequestError
from cambox.output.rows import SIDES
from cambox.run import run
from cambox.training.dataset import BoxDataset
from cambox.training.selection import share_of
from cambox.verify.verify import verify

ConfigMaker = Callable[..., Config]
QUIET = Console(file=io.StringIO())
NETWORK = ModelSettings(name="test_resnet", kwargs={"num_classes": 10})


@pytest.fixture
def output(make_config: ConfigMaker) -> str:
    summary = run(make_config("boxes.max_boxes=2"), QUIET)
    assert summary.complete
    return summary.folder


@pytest.fixture
def request_of(output: str, tmp_path: Path) -> Callable[..., TrainRequest]:
    def call(to: str, **named: object) -> TrainRequest:
        request = TrainRequest(
            output,
            tmp_path / to,
            backbone=NETWORK,
            side=64,
            batch_size=2,
            epochs=2,
            val=0.25,
            patience=9,
        )
        return replace(request, **named)  # type: ignore[arg-type]

    return call


def weights_of(request: TrainRequest) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(request.to / "detector.safetensors")


class Killed(BaseException):
    """What ends a process."""


def test_a_killed_training_ends_where_one_run_does(
    request_of: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faster R-CNN draws the regions that it learns from by chance."""
    # Of one map, for the time that it takes.
    small = {"kind": DetectorKind.fasterrcnn, "backbone": ModelSettings(name="test_vit")}
    whole, broken = (request_of(name, **small) for name in ("whole", "broken"))
    expected = train(whole, QUIET)
    monkeypatch.setattr(cambox.detect.training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    step = cambox.detect.training.Training.step
    # Within the first epoch, between the two, and within the second.
    for _ in range(3):
        done: list[int] = []

        def killed(self: object, losses: object, done: list[int] = done) -> None:
            if done:
                raise Killed
            done.append(1)
            step(self, losses)  # type: ignore[arg-type]

        monkeypatch.setattr(cambox.detect.training.Training, "step", killed)
        with pytest.raises(Killed):
            train(broken, QUIET)
        assert not (broken.to / "report.json").exists()
    monkeypatch.setattr(cambox.detect.training.Training, "step", step)
    found = train(broken, QUIET)
    for report in (expected, found):
        for epoch in report["epochs"]:
            assert epoch.pop("seconds") > 0
    assert found == expected
    mine, other = weights_of(broken), weights_of(whole)
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, other[name]), name
    assert not (broken.to / "checkpoint.pt").exists()
    # It is done: nothing is trained any more, and nothing else is taken for it.
    monkeypatch.setattr(cambox.detect.training.Training, "step", None)
    train(broken, QUIET)
    with pytest.raises(RequestError, match="whose learning_rate is"):
        train(replace(broken, learning_rate=0.5), QUIET)


def test_the_weights_of_the_best_ap_over_all_ious_are_kept() -> None:
    detector = torch.nn.Linear(1, 1)
    training = Training(detector, 4, 1e-3, {}, Processes(0, 1, 1, torch.device("cpu")))
    for place, (ap50, ap) in enumerate([(0.9, 0.3), (0.99, 0.5), (0.96, 0.6), (0.97, 0.4)]):
        with torch.no_grad():
            detector.weight.fill_(place)
        training.end_epoch(Precision(ap50, ap))
    assert training.progress.best == 2
    assert float(training.best["weight"]) == 2
    assert training.progress.is_over(10, patience=1)
    assert not training.progress.is_over(10, patience=2)


def test_parts_are_those_of_the_keys_and_weights_those_of_the_scores(output: str) -> None:
    dataset = BoxDataset(output)
    parts = Parts.of(dataset, 0.25)
    keys = list(dataset.image_keys())
    assert keys == [dataset.labelled(place).key for place in range(len(dataset))]
    assert [keys[place] for place in parts.val] == [key for key in keys if share_of(key) < 0.25]
    assert sorted([*parts.train, *parts.val]) == list(range(len(dataset)))
    scores = [box for place in range(len(dataset)) for box in dataset.labelled(place).boxes.score]
    pictures = Pictures(dataset, parts, parts.train, 64, 3, BoxWeights.score)
    for index, place in enumerate(parts.train):
        image, target = pictures[index]
        assert image.dtype == torch.uint8
        assert 0.74 * 64 <= max(image.shape[1:]) <= 1.26 * 64
        known = dataset.labelled(int(place)).boxes
        classes = [parts.classes.tolist().index(one) + 1 for one in known.class_id]
        assert target["labels"].tolist() == classes
        np.testing.assert_allclose(target["weights"], known.score / np.mean(scores), rtol=1e-5)
        again, _ = pictures[index]
        assert torch.equal(image, again)


def test_precision_is_that_of_coco() -> None:
    # Moved by 4 of 40 along both axes the IoU is 36 ** 2 / (2 * 40 ** 2 - 36 ** 2) = 0.681: above
    # four of COCO's ten thresholds. Moved by 10 it is 0.39, above none.
    true = [Boxes.of([[10, 20, 50, 60]], class_id=number % 2 + 1) for number in range(6)]
    for shift, at_half, over_all in ((0, 1.0, 1.0), (4, 1.0, 0.4), (10, 0.0, 0.0)):
        found = [
            boxes.with_columns(corners=boxes.corners + shift, score=np.array([0.5]))
            for boxes in true
        ]
        result = precision(found, true)
        assert result is not None
        assert (result.ap50, result.ap) == pytest.approx((at_half, over_all), abs=1e-6)
    assert precision([Boxes.of([])], [Boxes.of([])]) is None


def rows_of(folder: Path | str) -> list[dict]:
    paths = sorted(Path(folder).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_every_command_works_on_what_a_detector_finds(
    request_of: Callable[..., TrainRequest],
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {
        "input": {"shards": ["unused.tar"]},
        "model": NETWORK.model_dump(mode="json"),
        "output": {"uri": "unused"},
    }
    (tmp_path / "backbone.yaml").write_text(json.dumps(config))

    def cambox_(command: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, command.split())
        assert result.exit_code == code, result.output
        return result.stdout

    cambox_(f"detect train {output} --to det --backbone backbone.yaml --side 64 --epochs 1")
    # One file is given up, and the next call does that one.
    shard = Path(rows_of(output)[0]["shard"].removeprefix("file://"))
    read = cambox.detect.apply.encoded_images

    def torn(*arguments: object) -> object:
        if str(shard) in str(arguments[2]):
            raise OSError("torn")
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cambox.detect.apply, "encoded_images", torn)
    apply = f"detect apply det {output} --to second --min-score 0 --max-boxes 3 --json"
    first = json.loads(cambox_(apply, code=1))
    assert (first["files"]["published"], len(first["files"]["given_up"])) == (2, 1)
    monkeypatch.setattr(cambox.detect.apply, "encoded_images", read)
    second = json.loads(cambox_(apply))
    assert (second["files"]["published"], second["files"]["done"]) == (1, 2)
    assert json.loads(cambox_(apply))["files"]["done"] == 3

    before, after = rows_of(output), rows_of(tmp_path / "second" / second["recipe"][:16])
    assert verify(second["output"]).ok
    for mine, other in zip(after, before, strict=True):
        assert mine["objects"] != other["objects"]
        assert {item["class_id"] for item in mine["objects"]} <= set(mine["labels"])
        for name in mine.keys() - {"objects"}:
            assert mine[name] == other[name]
    assert any(row["objects"] for row in after)
    truth = [",".join(("image", *SIDES, "class_index"))]
    for row in after:
        for item in row["objects"][:1]:
            corners = [item[side] for side in SIDES]
            truth.append(",".join(map(str, (row["key"], *corners, item["class_id"]))))
    (tmp_path / "truth.csv").write_text("\n".join(truth) + "\n")
    evaluated = json.loads(cambox_("evaluate second --truth truth.csv --resamples 100 --json"))
    assert evaluated["gt_known"][0]["share"]["output"]["value"] == 1
    cambox_(f"diff {output} second --pictures 2")
    cambox_("gallery second --sample 4")
    cambox_("export second --format coco --to coco --images")
    cambox_("list second")
    assert len(BoxDataset("second")) == sum(bool(row["objects"]) for row in after)
    cambox_("detect train second --to det2 --backbone backbone.yaml --side 64 --epochs 1")


def test_several_processes_train_one_detector(
    request_of: Callable[..., TrainRequest], output: str, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "from cambox.config import ModelSettings\n"
        "from cambox.detect.train import TrainRequest, train\n"
        f"backbone = ModelSettings(**{NETWORK.model_dump(mode='json')})\n"
        "request = TrainRequest(sys.argv[1], Path(sys.argv[2]), backbone=backbone, side=64, "
        "batch_size=2, epochs=1, val=0.25)\n"
        "train(request, Console())\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(tmp_path / "program.py"), output, str(tmp_path / "to")]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    report = json.loads((tmp_path / "to" / "report.json").read_text())
    assert report["device"] == "2 x cpu"
    assert report["request"]["processes"] == 2
    assert len(report["epochs"]) == 1
