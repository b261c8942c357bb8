"""The job that makes the table of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cambox.models.inspect import ModelFacts
from makers import ROOT
from research import coverage


def test_the_table_has_each_model_and_names_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [("resnet", "test_resnet"), ("convnext", "test_convnext"), ("x", "resnet81")]
    monkeypatch.setattr(coverage, "chosen_models", lambda seed: models)
    coverage.main(tmp_path, seed=0)
    page = (tmp_path / "models.md").read_text()
    assert "| resnet | test_resnet | affine | NCHW | 160x160 | 5x5 | head |" in page
    assert "| convnext | test_convnext | frozen |" in page
    assert "resnet81 (x): model.name" in page
    document = json.loads((tmp_path / "models.json").read_text())
    assert [entry["name"] for entry in document["models"]] == ["test_resnet", "test_convnext"]
    assert all(entry["completeness_error"] < 1e-4 for entry in document["models"])
    assert document["refused"][0]["name"] == "resnet81"


def test_only_one_familys_rows_are_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [("resnet", "test_resnet"), ("convnext", "test_convnext"), ("x", "resnet81")]
    monkeypatch.setattr(coverage, "chosen_models", lambda seed: models)
    coverage.main(tmp_path, seed=0)
    before = json.loads((tmp_path / "models.json").read_text())
    measured = []
    inspect = coverage.inspect_model

    def noted(name: str, *args: Any, **kwargs: Any) -> ModelFacts:
        measured.append(name)
        return inspect(name, *args, **kwargs)

    monkeypatch.setattr(coverage, "inspect_model", noted)
    coverage.main(tmp_path, seed=0, only="conv*")
    after = json.loads((tmp_path / "models.json").read_text())
    assert measured == ["test_convnext"]
    assert after["models"][0] == before["models"][0]
    assert after["models"][1]["kind"] == "frozen"
    assert after["refused"] == before["refused"]


def test_an_encoder_that_never_has_a_classifier_is_no_familys_smallest_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coverage.timm, "list_modules", lambda: ["gemma4_vit"])
    assert coverage.smallest_members()["gemma4_vit"][0] == "gemma4_vit_167m"


def test_the_table_in_the_docs_holds_its_promise() -> None:
    document = json.loads((ROOT / "docs" / "models.json").read_text())
    families = {entry["family"] for entry in document["models"]} - {"torchvision"}
    assert len(families) == 98
    assert document["refused"] == []
    exact = [entry for entry in document["models"] if entry["kind"] in ("affine", "frozen")]
    assert len(exact) > 150
    assert max(entry["completeness_error"] for entry in exact) < 1e-4
