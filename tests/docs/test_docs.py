"""What the pages of docs/ tell to do is done here, where it needs no network and no cluster."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from rich.console import Console

from cambox.cli import main
from cambox.config import Config
from cambox.demo import write_config
from cambox.demo.scenes import write_scenes
from cambox.run import run
from cambox.sources.pack import pack
from makers import ROOT

PAGES = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            *(
                "code",
                "evaluate",
                "format",
                "fuse",
                "gallery",
                "labels",
                "method",
                "nightly",
                "ray",
                "recipes",
            ),
            *("review", "settings", "storage", "troubles"),
        )
    ),
)
PICTURES = 6


@dataclass(frozen=True)
class Block:
    """A code block of a page; ``info`` is what stands behind its fence."""

    page: str
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(info: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for match in re.finditer(r"^```([^\n]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page, line, match[1], match[2]))
    return [block for block in found if block.info == info]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo, in a folder that looks like the repository's root."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "demo"
    write_scenes(folder, range(PICTURES))
    pack(folder / "images", folder / "shards", folder / "labels.csv", PICTURES // 2)
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    try:
        config = write_config(Path("demo"))
        assert run(config, Console(file=io.StringIO())).complete
    finally:
        patch.undo()
    for name in ("configs", "pipeline"):
        (root / name).symlink_to(ROOT / name)
    return root


@pytest.fixture
def at_root(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(demo)
    path = list(sys.path)
    yield demo
    sys.path[:] = path


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def carry_out(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if command[0] == "cambox":
        monkeypatch.setattr(sys, "argv", command)
        main()
    else:
        assert command[:2] == ["python", "-m"], command
        monkeypatch.setattr(sys, "argv", command[2:])
        runpy.run_module(command[2], run_name="__main__")


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_of_the_docs_end_well(
    block: Block, at_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in commands(block):
        with pytest.raises(SystemExit) as end:
            carry_out(command, monkeypatch)
        assert not end.value.code, f"{block}: {command} ended with {end.value.code}"


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_of_the_docs_runs(block: Block, at_root: Path) -> None:
    exec(compile(block.text, str(block), "exec"), {})


def test_the_notebook_runs_and_is_kept_without_what_it_gave(at_root: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "look.ipynb").read_text())
    # A kernel of its own would add two dozen packages to run the same lines.
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), f"look.ipynb, {cell['id']}", "exec"), names)
    assert names["rows"].num_rows == PICTURES
    assert all(panel.shape[2] == 3 for panel in names["panels"])
    assert names["sheet"].getextrema() != ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_settings_of_the_docs_are_valid(block: Block) -> None:
    document = {"input": {"shards": ["a.tar"]}, "model": {"name": "a"}, "output": {"uri": "out"}}
    Config.model_validate(document | yaml.safe_load(block.text))


@pytest.mark.parametrize("block", blocks("sh no-test"), ids=str)
def test_files_named_by_commands_that_are_not_run_are_there(block: Block) -> None:
    text = " ".join(word for command in commands(block) for word in command)
    for path in re.findall(r"(?:configs|jobs)/[\w./-]+|constraints\.txt", text):
        assert (ROOT / path).is_file(), f"{block}: {path}"
    for module in re.findall(r"-m ((?:bench|research)[\w.]*)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or place.is_dir(), f"{block}: {module}"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_settings_named_by_the_docs_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = re.findall(r"`(?:--set )?((?:input|model|cam|boxes|output|engine)\.[a-z_.]+)", prose)
    for name in named:
        if name.endswith(".py"):
            continue
        section: type[BaseModel] = Config
        for part in name.rstrip(".").split("."):
            assert part in section.model_fields, f"{page}: {name} is no setting"
            inner = section.model_fields[part].annotation
            # A section that may be null is still a section.
            kinds = [kind for kind in (inner, *get_args(inner)) if isinstance(kind, type)]
            section = next((kind for kind in kinds if issubclass(kind, BaseModel)), Config)
