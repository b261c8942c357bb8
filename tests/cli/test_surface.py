"""``import cambox``: a small surface that costs nothing until it is used; its examples run."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import cambox


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=False)
    # The package's own makes the data that the others read.
    examples = finder.find(cambox, "cambox")
    for name in cambox.__all__:
        part = getattr(cambox, name)
        if callable(part):
            examples += finder.find(part, name, globs={name: part})
    ran = {example.name: doctest.DocTestRunner().run(example) for example in examples}
    assert not [name for name, result in ran.items() if result.failed]
    assert ran["cambox"].attempted > 20
    assert {name for name, result in ran.items() if result.attempted} >= {
        *("annotate", "load_classifier", "load_config", "read")
    }
    shown = str(cambox.__doc__)
    names = set(cambox.__all__) - {"Config", "__version__"}
    assert not [name for name in names if f"cambox.{name}" not in shown]


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
