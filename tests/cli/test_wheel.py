"""What is installed: one package, with its recipes, that no folder of a user's project hides."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from cambox.review.gallery.page import SCRIPTS, STYLES
from compiled import bring_compiled
from makers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built from a copy, in which building leaves its folders."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    # configs/ is what cambox/recipes links to.
    for name in ("pipeline", "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    build = (
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "dist",
        ".",
    )
    subprocess.run([sys.executable, *build], cwd=folder, check=True)
    (path,) = (folder / "dist").iterdir()
    return zipfile.ZipFile(path)


def test_it_holds_one_package_and_all_that_belongs_to_it(wheel: zipfile.ZipFile) -> None:
    names = {PurePosixPath(name) for name in wheel.namelist()}
    tops = {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")}
    assert tops == {"cambox"}
    installed = {str(name.relative_to("cambox")) for name in names if name.parts[0] == "cambox"}
    source = ROOT / "pipeline" / "cambox"
    code = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    recipes = {f"recipes/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    others = installed - code - recipes
    assert code | recipes <= installed
    assert others == {
        *("py.typed", "demo/classifier.safetensors", "nightly/page.html"),
        *("canary/turned.jpg", "canary/see_through.png"),
        "review/gallery/page.html",
        *(f"review/gallery/{name}" for name in (*SCRIPTS, *STYLES)),
    }


def test_it_works_in_a_project_with_folders_of_the_checkouts_names(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    site, project = tmp_path / "site", tmp_path / "project"
    wheel.extractall(site)
    bring_compiled(site / "cambox")
    for name in ("pipeline", "jobs", "configs", "bench", "research"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"raise ImportError('{name} of the project')")
    program = (
        "from pathlib import Path\n"
        "import cambox\n"
        "from cambox.demo import make_data\n"
        f"assert Path(cambox.__file__).is_relative_to({str(site)!r}), cambox.__file__\n"
        "make_data(Path('demo'), pictures=4)\n"
        "assert cambox.annotate('demo').samples == 4\n"
        "assert cambox.read('demo/boxes').count_rows() == 4\n"
    )
    for arguments in (
        ("-c", program),
        ("-m", "cambox", "recipes", "precise"),
        ("-m", "cambox", "gallery", "demo/boxes"),
    ):
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(site)},
            text=True,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert (project / "gallery" / "gallery.html").is_file()
