"""``import cambox``: a small surface that costs nothing until it is used; its examples run."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import cambox
from cambox import config_file, run

HEAVY = ("torch", "torchvision", "timm", "numba", "ray", "sklearn", "matplotlib", "pycocotools")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    finder = doctest.DocTestFinder(recurse=False)
    (whole,) = finder.find(cambox, "cambox")
    examples = [
        whole,
        *(
            test
            for function in (config_file.load_config, run.annotate)
            for test in finder.find(
                function, function.__name__, globs=vars(cambox) | {function.__name__: function}
            )
        ),
    ]
    for example in examples:
        runner = doctest.DocTestRunner()
        result = runner.run(example)
        assert not result.failed, example.name
        ran += result.attempted
    assert ran > 20


def test_every_name_of_the_surface_is_there_and_no_other() -> None:
    assert dir(cambox) == cambox.__all__
    for name in cambox.__all__:
        assert getattr(cambox, name) is not None
    # No module below it may take the name of a function, which it would hide once imported.
    package = Path(cambox.__file__).parent
    assert not [name for name in cambox.__all__ if (package / f"{name}.py").exists()]
    assert not [name for name in cambox.__all__ if (package / name).exists()]
    with pytest.raises(AttributeError, match="module 'cambox' has no attribute 'anotate'"):
        getattr(cambox, "anotate")  # noqa: B009
