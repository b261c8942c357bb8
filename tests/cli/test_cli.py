"""The command: exit codes, one-line errors, and a local run that needs no Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset
import pytest
import yaml

from makers import exit_code_here


def cambox(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cambox", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def config_path(tmp_path: Path, shards: Path) -> Path:
    path = tmp_path / "run.yaml"
    document = {
        "input": {"shards": [str(shards / "*.tar")]},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
        "cam": {"top_k": 2},
        "output": {"uri": "boxes"},
    }
    path.write_text(yaml.safe_dump(document))
    return path


# In a process of its own, as here others have imported everything.
ANNOTATE_AND_SAY_WHAT_WAS_IMPORTED = """
import sys
sys.argv = ["cambox", "annotate", "run.yaml", "--set", "cam.top_k=1"]
from cambox.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "cambox.annotator" in sys.modules
assert "ray" not in sys.modules
"""


def test_annotate_ends_with_where_the_output_is_and_a_local_run_does_not_import_ray(
    config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", ANNOTATE_AND_SAY_WHAT_WAS_IMPORTED],
        cwd=config_path.parent,
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "shards 3/3 · 12 images" in result.stdout
    assert "12 rows (ok 12)" in result.stdout
    assert "the weights are random" in result.stdout
    folder = result.stdout.split("output: ")[1].splitlines()[0]
    assert pyarrow.dataset.dataset(folder).count_rows() == 12

    monkeypatch.chdir(config_path.parent)
    assert exit_code_here(monkeypatch, "plan", str(config_path), "--set", "cam.top_k=1") == 0
    assert "3 shards: 0 new, 0 changed, 3 done" in capsys.readouterr().out


def test_a_bad_shard_is_named_and_the_exit_code_is_1(
    config_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = config_path.parent / "cut.tar"
    bad.write_bytes((shards / "shard-000001.tar").read_bytes()[:1000])
    patterns = f"input.shards=[{bad}, {shards}/shard-000000.tar]"
    monkeypatch.chdir(config_path.parent)
    assert exit_code_here(monkeypatch, "annotate", str(config_path), "--set", patterns) == 1
    output = capsys.readouterr().out
    assert f"given up: {bad}" in output
    assert "1 shard published" in output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["input.shards=nowhere-*.tar"], "nowhere-*.tar"),
        (["input.shards=pipe:echo hello"], "pipe:"),
        (["cam.topk=1"], "did you mean top_k"),
        (["model.name=resnet81"], "did you mean"),
        (["model.checkpoint=missing.safetensors"], "model.checkpoint: missing.safetensors"),
        (["model.kwargs={num_classes: 0}"], "no classifier"),
        (["model.class_names=run.yaml"], "the model has 10 classes"),
        (["cam.top_k=11"], "more than the model's 10 classes"),
        (["output.uri=pipe:cat"], "pipe:"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    config_path: Path,
    overrides: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process, which has imported everything; the next test has one of its own.
    flags = [part for override in overrides for part in ("--set", override)]
    monkeypatch.chdir(config_path.parent)
    assert exit_code_here(monkeypatch, "annotate", str(config_path), *flags) == 2
    output = capsys.readouterr()
    assert_one_line(output.out, output.err, message)


def test_a_wrong_request_says_so_to_the_shell(config_path: Path) -> None:
    wrong = "cam.topk=1"
    result = cambox("annotate", str(config_path), "--set", wrong, cwd=config_path.parent)
    assert result.returncode == 2
    assert_one_line(result.stdout, result.stderr, "did you mean top_k")


def assert_one_line(output: str, errors: str, message: str) -> None:
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert errors.startswith("cambox: ")
    assert "Traceback" not in errors + output


@pytest.mark.parametrize("command", ["annotate", "plan", "pack", "verify", "evaluate", "demo"])
def test_help_teaches(command: str, tmp_path: Path) -> None:
    result = cambox(command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage" in result.stdout
    assert len(result.stdout.splitlines()) > 8


def test_pack_then_annotate_an_own_folder(
    config_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = config_path.parent
    packed = cambox(
        "pack", str(pictures), "--to", "mine", "--labels", str(pictures / "labels.csv"), cwd=folder
    )
    assert packed.returncode == 0, packed.stderr
    assert "12 images in 1 shard," in packed.stdout
    # In this process, which has imported everything.
    monkeypatch.chdir(folder)
    own = ("--set", "input.shards=mine/*.tar")
    assert exit_code_here(monkeypatch, "annotate", str(config_path), *own) == 0
    assert "12 rows (ok 12)" in capsys.readouterr().out


def test_models_lists_kind_map_and_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_here(monkeypatch, "models", "test_vit*", "--json") == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {"test_vit", "test_vit2", "test_vit3", "test_vit4"} <= listed.keys()
    assert listed["test_vit"]["kind"] == "attention"
    assert listed["test_vit"]["completeness_error"] < 1e-4
    assert 0 < listed["test_vit"]["map_cost"] < 5

    assert exit_code_here(monkeypatch, "models", "test_resnet") == 0
    table = capsys.readouterr().out
    assert "affine" in table
    assert "5x5" in table

    for pattern, says in (("no_such*", "none of"), ("resnet*", "narrow the pattern")):
        assert exit_code_here(monkeypatch, "models", pattern) == 2
        assert says in capsys.readouterr().err
