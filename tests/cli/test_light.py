"""Commands that load no model start at once: none of the large libraries is imported for them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import cambox
from cambox.config_file import load_config
from cambox.run import run

HEAVY = ("torch", "torchvision", "timm", "numba", "ray", "sklearn", "matplotlib", "pycocotools")
# Drivers of storages that are far away, which a local run need not wait for.
REMOTE = ("aiohttp", "s3fs", "gcsfs", "botocore")

# Runs commands one after the other, so that each need not begin anew; the first one that imports
# something is the one that has it in its answer.
PROGRAM = f"""
import contextlib, io, json, sys, traceback
from cambox.cli import main
answers, seen = [], set()
for command in json.loads(sys.argv[1]):
    sys.argv = ["cambox", *command.split()]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
    loaded = [name for name in {(*HEAVY, *REMOTE)} if name in sys.modules and name not in seen]
    seen.update(loaded)
    answers.append([code, out.getvalue(), err.getvalue(), loaded])
print(json.dumps(answers))
"""

WITHOUT_A_MODEL = {
    "--help": "Start with `cambox demo`",
    "--version": f"cambox {cambox.__version__}",
    "annotate --help": "see cambox recipes",
    "recipes": "precise",
    "recipes precise": "refine: {steps: 2}",
    "recipes --settings": "`cam.top_k`",
    "plan run.yaml": "3 shards: 0 new, 0 changed, 3 done",
    "plan run.yaml --json": '"new": []',
    "verify out": "12 rows",
    "list out": "3 files  12 rows",
    "list out --json": '"rows": 12',
    "verify out --against-input": "12 rows",
    "pack photos --to packed --labels photos/labels.csv": "12 images in 1 shard,",
    "export out --format coco --to coco --images": "images",
    "export out --format yolo --to yolo": "images",
    "export out --format voc --to voc": "images",
    "export out --format hf --to hf": "images",
    "export out --format labelstudio --to labelstudio": "images",
    "diff out other": "rows: 12 in both",
    "fuse out other --to fused": "3 files fused",
    "fuse out other --to fused --rule agree --json": '"complete": true',
    "gallery out": "written: gallery/gallery.html",
    "show out picture-00": "picture-00: ok, ",
    "show out picture-00 --to picture.png": "written: picture.png",
    "stats out": "12 rows in 3 files: ok 12",
    "stats out --json": '"rows":12',
    "retry --help": "Read the samples again that failed",
    "pick out --count 5": "written: pick.parquet",
    "corrections --check out": "all reviewed rows were checked before",
    "probe --help": "Labels are enough",
    "bench --help": "what bounds it",
    "detect --help": "the second round",
    "detect train --help": "torchrun",
    "detect apply --help": "as another recipe",
}

WRONG = {
    "annotate run.yaml --set cam.topk=1": "--set cam.topk: unknown key; did you mean top_k?",
    "plan run.yaml --set boxes.threshold=2": "boxes.threshold: ",
    "nightly run.yaml --set modl.name=a": "modl: unknown key; did you mean model?",
    "nightly run.yaml --date yesterday": "--date: 'yesterday' is not a date",
    "nightly run.yaml --set input.shards=no.tar": "'no.tar' does not exist",
    "tune run.yaml --truth a.csv --to b.yaml --set cam.topk=1": "cam.topk: unknown key",
    "annotate nowhere.yaml": "nowhere.yaml: No such file or directory; name a configuration file",
    "annotate run.yaml --set input.shards=no-*.tar": "'no-*.tar' matches no file",
    "annotate run.yaml --set output.uri=pipe:cat": "pipe:",
    "annotate run.yaml --set model.checkpoint=no.safetensors": (
        "model.checkpoint: no.safetensors cannot be read: "
    ),
    "annotate run.yaml --set model.class_names=no.txt": (
        "model.class_names: no.txt cannot be read: "
    ),
    "annotate run.yaml --redo-older-than old": "--redo-older-than: old is no version",
    "recipes precis": "precis: no recipe of cambox; did you mean precise?",
    "recipes what": "what: no recipe of cambox; there are demo, labels, ",
    "verify nowhere": "nowhere does not exist",
    "list nowhere": "nowhere does not exist",
    "export nowhere --format coco --to a": "nowhere does not exist",
    "diff out nowhere": "nowhere does not exist",
    "gallery nowhere": "nowhere does not exist",
    "show nowhere a": "nowhere does not exist",
    "show out nobody": "has no row with the key 'nobody'",
    "show out picture-00 --to run.yaml/a.png": "--to: run.yaml cannot be made",
    "stats nowhere": "nowhere does not exist",
    "retry run.yaml --status torn": "--status: 'torn' is none of unreadable, ",
    "pick nowhere": "nowhere does not exist",
    "export out --format coco --to a --pick run.yaml": "--pick: run.yaml cannot be read",
    "corrections no.json out": "no.json does not exist",
    "corrections run.yaml out": "run.yaml is neither JSON nor XML",
    "corrections": "name the file and the output, or --check OUTPUT",
    "evaluate nowhere --truth photos/labels.csv": "nowhere does not exist",
    "evaluate out --truth no.csv": "--truth: no.csv does not exist; correct the path",
    "evaluate out --truth photos": "--truth: photos is a folder",
    "evaluate out --truth photos/labels.csv --to run.yaml": "--to: run.yaml cannot be made",
    "gallery out --to run.yaml/a": "--to: run.yaml/a cannot be made",
    "tune run.yaml --truth no.csv --to b.yaml": "--truth: no.csv does not exist; correct the path",
    "tune run.yaml --truth photos/labels.csv --to b.yaml": "line 1: no column 'x_min'",
    "export out --format voc --to run.yaml/a": "nothing was exported to run.yaml/a",
    "rebox nowhere --to a": "nowhere does not exist",
    "fuse out nowhere --to a": "nowhere does not exist",
    "fuse out other --to a --weights 2": "--weights: 2 is not two numbers above 0",
    "pack nowhere --to a": "nowhere: not a folder",
    "probe run.yaml --to a --set cam.topk=1": "cam.topk: unknown key",
    "bench run.yaml --set cam.topk=1": "cam.topk: unknown key",
    "bench run.yaml --images 100": "--images and --hours go together",
    "bench run.yaml --set input.shards=no-*.tar": "'no-*.tar' matches no file",
    "detect train nowhere --to a": "nowhere does not exist",
    "detect train out --to a --backbone b.yaml": "b.yaml: No such file or directory",
    "detect train out --to run.yaml/a": "--to: run.yaml/a cannot be made",
    "detect train out --to a --detector ssdlite --batch-size 1": "--batch-size: ssdlite has norms",
    "detect train out --to a --detector ssdlite --backbone run.yaml": "--backbone: ssdlite has",
    "detect apply nowhere out --to a": "nowhere holds no detector.json",
    "detect apply nowhere missing --to a": "missing does not exist",
}


@dataclass(frozen=True)
class Answer:
    """What a command gave, and the large libraries that it was the first to import."""

    code: int
    out: str
    err: str
    loaded: list[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shards: Path, pictures: Path) -> Path:
    """A folder with two outputs, their configuration run.yaml, and a cache of its own."""
    folder = tmp_path_factory.mktemp("light")
    document = {
        "input": {"shards": [str(shards / "*.tar")]},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
        "cam": {"top_k": 2},
        "output": {"uri": "out"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    (folder / "photos").symlink_to(pictures)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for overrides in ((), ("boxes.threshold=0.5", "output.uri=other")):
            summary = run(load_config("run.yaml", overrides), Console(file=io.StringIO()))
            assert summary.complete
    return folder


def python(folder: Path, *arguments: str, cache: str = "cache") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / cache)},
        text=True,
        capture_output=True,
        check=False,
    )


def answers(folder: Path, commands: Iterable[str]) -> dict[str, Answer]:
    commands = list(commands)
    result = python(folder, "-c", PROGRAM, json.dumps(commands))
    assert result.returncode == 0, result.stderr
    return dict(zip(commands, (Answer(*given) for given in json.loads(result.stdout)), strict=True))


def test_commands_without_a_model_import_no_large_library(folder: Path) -> None:
    for command, answer in answers(folder, WITHOUT_A_MODEL).items():
        assert answer.code == 0, f"{command}: {answer.err}"
        assert WITHOUT_A_MODEL[command] in answer.out, command
        assert not answer.loaded, f"{command} imports {answer.loaded}"


def test_a_wrong_request_is_told_before_any_large_library_is_imported(folder: Path) -> None:
    for command, answer in answers(folder, WRONG).items():
        assert answer.code == 2, f"{command}: {answer.err}"
        (line,) = answer.err.splitlines()
        assert line.startswith("cambox: "), command
        assert WRONG[command] in line, command
        assert not answer.loaded, f"{command} imports {answer.loaded}"


def test_a_program_that_reads_rows_imports_none_of_them(folder: Path) -> None:
    program = (
        "import sys, cambox\n"
        "assert 'pyarrow' not in sys.modules and 'rich' not in sys.modules\n"
        "assert cambox.read('out').count_rows() == 12\n"
        "config = cambox.load_config('run.yaml')\n"
        f"print([name for name in {(*HEAVY, *REMOTE)} if name in sys.modules])\n"
    )
    result = python(folder, "-c", program)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_plan_says_the_same_whether_it_loads_the_model_or_knows_the_recipe(folder: Path) -> None:
    plan = ("-m", "cambox", "plan", "run.yaml", "--json")
    known, loaded = python(folder, *plan), python(folder, *plan, cache="empty")
    assert json.loads(known.stdout) == json.loads(loaded.stdout)
    first, *rest = loaded.stderr.splitlines()
    assert first == "loading model test_resnet"
    assert rest == known.stderr.splitlines()
