"""Checkpoints: what loads, and what is refused with the tensor that does not fit."""

from __future__ import annotations

import argparse
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from PIL import Image

import cambox.models.build
from cambox.config import ModelSettings
from cambox.errors import RequestError
from cambox.models import hub
from cambox.models.build import build_network
from cambox.models.load import load_classifier

NAME = "test_resnet"


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    module: torch.nn.Module = timm.create_model(NAME, num_classes=7)
    return module.state_dict()


def build(path: Path, averaged: bool = False) -> torch.nn.Module:
    settings = ModelSettings(
        name=NAME, checkpoint=str(path), kwargs={"num_classes": 7}, averaged=averaged
    )
    return build_network(settings)


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def noise_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the same names and shapes that are other ones."""
    return {name: torch.full_like(value, 7) for name, value in state.items()}


# What training scripts save, and what is said of it.
WRAPPED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "plain": (lambda state: state, ""),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3}, "took state_dict of"),
    "model_state_dict": (lambda state: {"model_state_dict": state, "loss": 0.5}, "took model_st"),
    "of any name": (lambda state: {"my": {"net": state}, "loss": torch.ones(1)}, "took my.net of"),
    "data parallel": (lambda state: {"model": prefixed("module.", state)}, "took model module.*"),
    "compiled, in two": (lambda state: prefixed("_orig_mod.module.", state), "took module.*"),
    "Lightning": (
        lambda state: {
            "state_dict": prefixed("model._orig_mod.net.", state) | {"loss.weight": torch.ones(3)},
            "hyper_parameters": {"lr": 0.1},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        },
        "left out loss.weight, which are not under model.net.*",
    ),
    "a compiled part": (
        lambda state: {re.sub("^layer1[.]", "layer1._orig_mod.", k): v for k, v in state.items()},
        "",
    ),
    "backbone and head": (
        lambda state: {
            f"backbone.{name}" if not name.startswith("fc.") else name: value
            for name, value in state.items()
        },
        "took backbone.*",
    ),
    "SWA": (
        lambda state: prefixed("module.", state) | {"n_averaged": torch.tensor(3)},
        "left out n_averaged",
    ),
    "timm's train.py": (
        lambda state: {
            "epoch": 3,
            "arch": NAME,
            "state_dict": state,
            "state_dict_ema": noise_of(state),
            "optimizer": {"state": {}, "param_groups": []},
            "args": argparse.Namespace(data_dir=Path("/data"), lr=0.1),
            "metric": np.float64(81.2),
        },
        "also holds state_dict_ema; model.averaged=true takes it",
    ),
    "torchvision's train.py": (
        lambda state: {
            "model": state,
            "model_ema": prefixed("module.", noise_of(state)),
            "args": argparse.Namespace(lr=0.1),
        },
        "took model of",
    ),
    "Lightning with an average": (
        lambda state: prefixed("model.", state) | prefixed("ema_model.module.", noise_of(state)),
        "also holds ema_model.module.*; model.averaged=true takes it",
    ),
    "only an average": (lambda state: {"model_ema": state, "epoch": 1}, "took model_ema of"),
    "without counts": (
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        "",
    ),
}


@pytest.mark.parametrize("way", WRAPPED)
def test_checkpoints_of_training_scripts_load(
    tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cambox")
    wrap, said = WRAPPED[way]
    torch.save(wrap(weights()), tmp_path / "weights.pth")
    loaded = build(tmp_path / "weights.pth").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights().items())
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


@pytest.mark.parametrize(
    "way", ["timm's train.py", "torchvision's train.py", "Lightning with an average"]
)
def test_the_average_is_taken_where_it_is_asked_for(tmp_path: Path, way: str) -> None:
    torch.save(WRAPPED[way][0](weights()), tmp_path / "weights.pth")
    loaded = build(tmp_path / "weights.pth", averaged=True).state_dict()
    assert all(bool((value == 7).all()) for value in loaded.values())


def test_an_average_that_is_not_there_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": weights()}, tmp_path / "weights.pth")
    with pytest.raises(RequestError, match=r"model\.averaged: .* holds no moving average"):
        build(tmp_path / "weights.pth", averaged=True)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("test_resnet", {"num_classes": 7}),
        ("test_resnet", {"num_classes": 12, "in_chans": 1}),
        ("test_vit", {"num_classes": 3}),
        ("torchvision/squeezenet1_1", {"num_classes": 5}),
        ("torchvision/mobilenet_v3_small", {"num_classes": 5}),
        ("torchvision/densenet121", {"num_classes": 1001}),
    ],
)
def test_classes_and_channels_are_read_off_the_checkpoint(
    tmp_path: Path, name: str, kwargs: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cambox")
    torch.manual_seed(3)
    saved = build_network(ModelSettings(name=name, kwargs=kwargs)).state_dict()
    torch.save({"model": prefixed("module.", saved)}, tmp_path / "weights.pth")
    settings = ModelSettings(name=name, checkpoint=str(tmp_path / "weights.pth"))
    loaded = build_network(settings).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in saved.items())
    for argument, value in kwargs.items():
        assert f"model.kwargs: {argument} is {value}, as in {tmp_path}" in caplog.text


def test_channels_that_a_network_cannot_take_are_refused_with_the_remedy(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", num_classes=4, in_chans=1).state_dict()
    torch.save(state, tmp_path / "grey.pth")
    settings = ModelSettings(name="torchvision/resnet18", checkpoint=str(tmp_path / "grey.pth"))
    with pytest.raises(RequestError, match=r"takes 1 channels.* over 3 channels, each divided by"):
        build_network(settings)
    with pytest.raises(RequestError, match="test_resnet takes 4 channels, and pictures are read"):
        load_classifier(ModelSettings(name="test_resnet", kwargs={"in_chans": 4}))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "efficientvit_b0"])
def test_a_network_of_one_channel_is_given_the_grey_that_pillow_makes(name: str) -> None:
    settings = ModelSettings(name=name, kwargs={"in_chans": 1, "num_classes": 5}, input_size=64)
    expected, classifier = build_network(settings), load_classifier(settings)
    mean, std = classifier.preprocessing.mean, classifier.preprocessing.std
    assert len(mean) == len(std) == 1
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    pixels = (torch.from_numpy(grey)[:, None] / 255 - mean[0]) / std[0]
    torch.testing.assert_close(classifier.normalised(images), pixels)
    with torch.inference_mode():
        torch.testing.assert_close(
            classifier.scores(images).logits, expected(pixels), rtol=1e-4, atol=1e-4
        )


def test_a_folder_that_timm_saved_is_a_model(tmp_path: Path) -> None:
    torch.manual_seed(3)
    saved = timm.create_model(NAME, num_classes=7)
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": NAME, "num_classes": 7, "pretrained_cfg": saved.pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = ModelSettings(name=f"local-dir:{tmp_path}")
    assert settings.has_weights
    loaded = build_network(settings).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in saved.state_dict().items())
    with pytest.raises(RequestError, match=r"model\.name: local-dir:.* name a folder with"):
        build_network(ModelSettings(name=f"local-dir:{tmp_path / 'none'}"))


def test_a_server_answers_with_whatever_it_says_and_not_with_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.5)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # which refuses HEAD
        address = f"http://127.0.0.1:{server.server_port}"
        start = time.monotonic()
        assert not hub.answers(address)  # it listens, and nobody serves
        assert time.monotonic() - start < 5
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert hub.answers(address)
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("resnet18", "pretrained"),
        ("torchvision/resnet18", "pretrained"),
        ("hf-hub:timm/resnet18.a1_in1k", "name"),
    ],
)
def test_a_hub_that_does_not_answer_is_one_line_within_seconds(
    name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address that nothing listens at, and no weights of earlier runs.
    for module, address in ((constants, "ENDPOINT"), (cambox.models.build, "TORCHVISION_HUB")):
        monkeypatch.setattr(module, address, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    start = time.monotonic()
    with pytest.raises(RequestError) as refusal:
        build_network(ModelSettings(name=name, pretrained=key == "pretrained"))
    assert time.monotonic() - start < 10
    said = f"model.{key}: {name} cannot be had from the hub (http://127.0.0.1:9 does not answer)"
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["weights.safetensors", "WEIGHTS.SAFETENSORS"])
def test_safetensors_load(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file(weights(), tmp_path / name)
    loaded = build(tmp_path / name).state_dict()
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
    with pytest.raises(RequestError, match=r"more than data \(.*\), and unpickling that would run"):
        build(tmp_path / "weights.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.raises(RequestError, match="is not a safetensors or weights-only"):
        build(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda: timm.create_model(NAME), "holds a whole pickled model; save model.state_dict()"),
        (lambda: {"model": torch.nn.Linear(1, 1)}, "holds a whole pickled model; save model.st"),
        (lambda: {"x": argparse.ArgumentParser}, "holds more than data (argparse.ArgumentParser)"),
        (lambda: {"epoch": 1, "best": 0.5}, "no mapping of names to tensors, only epoch, best; s"),
        (lambda: [1], "no mapping of names to tensors, a list; save model.state_dict()"),
    ],
)
def test_what_is_not_weights_is_said_in_plain_words(
    tmp_path: Path, saved: Callable[[], object], message: str, zipped: bool
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(saved(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RequestError) as refusal:
        build(path)
    assert f"model.checkpoint: {path} {'holds ' if message[:2] == 'no' else ''}{message}" in str(
        refusal.value
    )
    assert str(refusal.value).isprintable()


def test_a_scripted_archive_is_said_to_be_one(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "weights.pt"))
    with pytest.raises(RequestError, match="is a TorchScript archive; save") as refusal:
        build(tmp_path / "weights.pt")
    assert str(refusal.value).isprintable()


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        build(tmp_path / "weights.pth")
