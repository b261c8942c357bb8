"""Checkpoints: what loads, and what is refused with the tensor that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from cambox.config import ModelSettings
from cambox.errors import RequestError
from cambox.models.build import build_network

NAME = "test_resnet"


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    module: torch.nn.Module = timm.create_model(NAME, num_classes=7)
    return module.state_dict()


def build(path: Path) -> torch.nn.Module:
    settings = ModelSettings(name=NAME, checkpoint=str(path), kwargs={"num_classes": 7})
    return build_network(settings)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_checkpoints_of_training_scripts_load(
    tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    torch.save(wrap(weights()), tmp_path / "weights.pth")
    loaded = build(tmp_path / "weights.pth").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights().items())


def test_safetensors_load(tmp_path: Path) -> None:
    safetensors.torch.save_file(weights(), tmp_path / "weights.safetensors")
    loaded = build(tmp_path / "weights.safetensors").state_dict()
    assert torch.equal(loaded["fc.weight"], weights()["fc.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": torch.zeros(9, 3)}, r"fc\.weight of shape \[9, 3\]"),
        ({"fc.bias": None}, r"no tensor fc\.bias"),
        ({"extra": torch.zeros(1)}, "a tensor extra"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {name: value for name, value in (weights() | change).items() if value is not None}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(RequestError, match=message):
        build(tmp_path / "weights.pth")


class Payload:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "executed")


def test_a_checkpoint_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "trace")}, tmp_path / "weights.pth")
    with pytest.raises(RequestError, match="weights-only"):
        build(tmp_path / "weights.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.raises(RequestError, match="is not a safetensors or weights-only"):
        build(tmp_path / name)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        build(tmp_path / "weights.pth")
