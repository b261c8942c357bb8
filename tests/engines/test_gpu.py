"""A worker beside others on its GPU: it sleeps while that computes, and keeps to its share."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cambox.engines import batch_size, local, worker
from cambox.engines.batch_size import LARGEST, LARGEST_OF_SEVERAL
from cambox.engines.gpu import memory_fraction, sleep_while_gpus_compute
from cambox.engines.local import LocalEngine
from cambox.engines.worker import load_model, make_annotator
from conftest import ConfigMaker

GIB = 2**30


class Driver:
    """CUDA's driver as far as it is asked; ``fails`` is the function that gives an error."""

    def __init__(self, gpus: int, fails: str = "") -> None:
        self.gpus = gpus
        self.fails = fails
        self.flags: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> int:
            if name == self.fails:
                return 100
            if name == "cuDeviceGetCount":
                given[0]._obj.value = self.gpus
            elif name == "cuDeviceGet":
                given[0]._obj.value = 40 + given[1]
            elif name == "cuDevicePrimaryCtxSetFlags_v2":
                self.flags[given[0].value] = given[1].value
            else:
                assert name == "cuInit", name
            return 0

        return call


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    def found(name: str) -> Driver:
        assert name == "libcuda.so.1"
        return driver

    monkeypatch.setattr(ctypes, "CDLL", found)
    return driver


def test_all_gpus_are_told_that_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = with_driver(monkeypatch, Driver(gpus=2))
    assert sleep_while_gpus_compute()
    # CU_CTX_SCHED_BLOCKING_SYNC = 0x04.
    assert driver.flags == {40: 4, 41: 4}


@pytest.mark.parametrize(
    "fails", ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDevicePrimaryCtxSetFlags_v2"]
)
def test_a_driver_that_refuses_leaves_all_as_it_was(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = with_driver(monkeypatch, Driver(gpus=1, fails=fails))
    assert not sleep_while_gpus_compute()
    assert driver.flags == {}


def test_without_a_driver_or_a_gpu_there_is_nothing_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_driver(monkeypatch, Driver(gpus=0))
    assert not sleep_while_gpus_compute()

    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not sleep_while_gpus_compute()


def test_eight_workers_and_what_cuda_takes_for_each_fit_on_a_gpu() -> None:
    for total in (24 * GIB, 80 * GIB, 140 * GIB):
        for workers in (2, 3, 8):
            share = 1 / workers
            taken = workers * (memory_fraction(total, share) * total + 0.6 * GIB)
            assert 0.5 * total < taken <= total
    # On a small one half of the share is left at least.
    assert memory_fraction(4 * GIB, 1 / 8) == 1 / 16


def test_a_worker_beside_others_takes_its_share_and_smaller_batches(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that says it is a GPU; no batch is timed, and none computed."""
    config = make_config("engine.batch_size=auto")
    model = load_model(config, torch.device("cpu"), "float32", 1)
    fractions: list[tuple[float, int]] = []
    # Below what PyTorch makes of its arguments.
    for owner, name, value in (
        (torch.cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=80 * GIB)),
        (torch.cuda.memory, "_lazy_init", lambda: None),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_name", lambda device: "a GPU"),
        (torch._C, "_cuda_setMemoryFraction", lambda *given: fractions.append(given)),
    ):
        monkeypatch.setattr(owner, name, value, raising=False)
    asked: list[str] = []
    monkeypatch.setattr(batch_size, "remembered", lambda what, find: asked.append(what) or 64)
    made: list[Any] = []
    monkeypatch.setattr(worker, "Annotator", lambda *given: made.append(given))
    on_gpu = replace(model, classifier=replace(model.classifier, device=torch.device("cuda")))
    for share in (1.0, 0.25):
        make_annotator(config, on_gpu, 1, images=1000, gpu_share=share)
    assert fractions == [(0.25 - 0.75 / 80, 0)]
    given = [arguments[-1].keywords for arguments in made]
    assert [(one["images"], one["gpu_share"]) for one in given] == [(1000, 1.0), (1000, 0.25)]
    assert [what.rpartition("at most ")[2] for what in asked] == [
        f"{LARGEST} on 1.0000 of it",
        f"{LARGEST_OF_SEVERAL} on 0.2500 of it",
    ]
    assert [arguments[3] for arguments in made] == [64, 64]


def test_one_worker_on_a_gpu_says_how_many_there_could_be(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(make_config())
    assert engine._of_how_many() == ""
    gpu = replace(engine.model.classifier, device=torch.device("cuda"))
    engine.model = replace(engine.model, classifier=gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(local, "usable_cpus", lambda: 16)
    assert engine._of_how_many() == "; engine.name: ray runs 8 here, and is quicker"
    monkeypatch.setattr(local, "usable_cpus", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert engine._of_how_many() == ""
