"""What a process is as a worker; and how a GPU's batch size is found, on a played GPU."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock

import cambox
from cambox.engines import actor, batch_size, cluster
from cambox.engines.actor import MOST_WARNINGS, Warnings
from cambox.engines.batch_size import (
    LARGEST,
    SMALLEST,
    fastest_batch_size,
    remembered,
    timed_of,
)
from cambox.engines.local import LocalEngine
from cambox.engines.paths import absolute, runtime_env
from cambox.engines.sizing import Pool, Size
from cambox.engines.waiting import Waiting, who_is_missing
from cambox.engines.worker import load_model
from cambox.errors import RequestError, UnavailableError
from cambox.models.heads import HeadKind
from conftest import ConfigMaker

CPU = torch.device("cpu")


def test_the_largest_batch_that_still_gains_is_taken() -> None:
    # 10 ms for a start and 0.1 ms an image up to 128 at once, from where on nothing is gained.
    tried: list[int] = []

    def seconds(size: int) -> float:
        tried.append(size)
        return 0.010 + 0.0001 * size if size <= 128 else 0.0228 * size / 128

    assert fastest_batch_size(seconds) == 128
    assert tried == [16, 32, 64, 128, 256]


def test_it_stops_at_the_largest_and_at_the_smallest() -> None:
    assert fastest_batch_size(lambda size: 1.0) == LARGEST
    assert fastest_batch_size(lambda size: float(size)) == SMALLEST


@pytest.mark.parametrize(("fits", "expected"), [(100, 64), (16, 16), (3, SMALLEST)])
def test_a_batch_that_does_not_fit_is_not_taken(fits: int, expected: int) -> None:
    def seconds(size: int) -> float:
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    assert fastest_batch_size(seconds) == expected


def test_it_is_found_once_for_each_model_and_gpu(tmp_path: Path) -> None:
    answers = iter([64, 128, 256])
    assert remembered("a on one GPU", lambda: next(answers), tmp_path / "cache") == 64
    assert remembered("b on one GPU", lambda: next(answers), tmp_path / "cache") == 128
    assert remembered("a on one GPU", lambda: next(answers), tmp_path / "cache") == 64
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"batch_size": "many"}', b"\xff"])
def test_a_damaged_memory_is_found_anew(tmp_path: Path, damage: bytes) -> None:
    assert remembered("a", lambda: 64, tmp_path) == 64
    (kept,) = tmp_path.glob("*.json")
    kept.write_bytes(damage)
    assert remembered("a", lambda: 32, tmp_path) == 32
    assert remembered("a", lambda: 16, tmp_path) == 32


def test_without_a_place_to_remember_it_is_found_each_time_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    answers = iter([64, 32])
    assert remembered("a", lambda: next(answers), tmp_path / "file" / "cache") == 64
    assert remembered("a", lambda: next(answers), tmp_path / "file" / "cache") == 32
    assert f"engine.batch_size: {tmp_path / 'file' / 'cache'} cannot be locked" in caplog.text


def test_one_worker_times_and_the_others_read(tmp_path: Path) -> None:
    timing, others = threading.Event(), threading.Barrier(3)
    timed: list[str] = []

    def time_it() -> int:
        timed.append(threading.current_thread().name)
        assert timing.wait(20)
        return 64

    def ask() -> int:
        others.wait(20)
        return remembered("a", time_it, tmp_path)

    with ThreadPoolExecutor(3) as workers:
        answers = [workers.submit(ask) for _ in range(3)]
        while not timed:
            assert not any(answer.done() for answer in answers)
        timing.set()
        assert [answer.result() for answer in answers] == [64] * 3
    assert len(timed) == 1


def test_a_worker_that_died_while_it_timed_is_not_waited_for(tmp_path: Path) -> None:
    assert remembered("a", lambda: 64, tmp_path) == 64
    (kept,) = tmp_path.glob("*.json")
    kept.unlink()
    holding = "import sys, time, filelock\n"
    holding += "filelock.FileLock(sys.argv[1]).acquire(); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", holding, str(kept.with_suffix(".lock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as died:
        assert died.stdout is not None
        assert died.stdout.readline() == b"held\n"
        died.send_signal(signal.SIGKILL)
    assert remembered("a", lambda: 32, tmp_path) == 32


def test_a_worker_that_hangs_while_it_times_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert remembered("a", lambda: 64, tmp_path) == 64
    (kept,) = tmp_path.glob("*.json")
    kept.unlink()
    monkeypatch.setattr(batch_size, "LOCK_SECONDS", 0.1)
    with FileLock(kept.with_suffix(".lock")):
        assert remembered("a", lambda: 32, tmp_path) == 32
    assert "so a worker may time its batches again" in caplog.text


def test_all_that_is_timed_tells_batch_sizes_apart(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    different = [
        (),
        ("model.class_input_size=96",),
        ("cam.refine.steps=1", "cam.refine.layers=1"),
        ("cam.refine.steps=1", "cam.refine.layers=2"),
        ("model.input_size=96",),
    ]
    timed = {
        timed_of(load_model(make_config(*settings), CPU, "float32", 1).classifier)
        for settings in different
    }
    assert len(timed) == len(different)


def test_float32_is_float32(make_config: ConfigMaker) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    load_model(make_config(), CPU, "float32", 1)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("kind", [HeadKind.affine, HeadKind.frozen, HeadKind.derivative])
def test_a_worker_takes_the_kind_of_head_that_the_driver_found(
    make_config: ConfigMaker, kind: HeadKind
) -> None:
    # Probed, this one is affine, and would be so whatever the setting says.
    model = load_model(make_config(), CPU, "float32", 1, kind)
    assert model.classifier.head.kind is kind
    assert f'"nonlinear_head": "{kind}"' in model.recipe.settings


def test_a_measured_offset_is_one_that_could_have_been_given(make_config: ConfigMaker) -> None:
    # 7 x 7 cells, which look to the left; see tests/models/test_offset.py.
    size = "model.name=resnet18", "model.input_size=224"
    plain, measured = (
        load_model(make_config(*size, *more), CPU, "float32", 1)
        for more in ((), ("cam.offset=auto",))
    )
    offset = measured.classifier.offset
    assert -0.5 <= offset < -0.3
    given = load_model(make_config(*size, f"cam.offset={offset}"), CPU, "float32", 1)
    assert given.recipe == measured.recipe != plain.recipe
    # A recipe without it is what it was before there was one.
    assert '"offset"' in given.recipe.settings
    assert '"offset"' not in plain.recipe.settings


def test_local_threads_are_the_cpus_that_may_be_used(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert LocalEngine(make_config("engine.cpus_per_worker=auto")).threads == 3


def test_far_more_threads_than_a_machine_has_cpus_are_refused(make_config: ConfigMaker) -> None:
    with pytest.raises(RequestError, match=r"cpus_per_worker: 4096 is far more than the \d+ CPU"):
        LocalEngine(make_config("engine.cpus_per_worker=4096"))


def test_warnings_are_kept_for_the_driver_and_not_without_end() -> None:
    warnings = Warnings()
    try:
        log = logging.getLogger("cambox.sources.retry")
        log.info("nothing to tell")
        logging.getLogger("ray").warning("noise")
        log.warning("s3://a: attempt %d failed", 1)
        assert warnings.take() == (f"process {os.getpid()}: s3://a: attempt 1 failed",)
        assert warnings.take() == ()
        for number in range(1000):
            log.warning("s3://%d", number)
        first, *latest = warnings.take()
        assert first.endswith(f"and {1000 - MOST_WARNINGS} warnings before these")
        assert [text.rpartition("/")[2] for text in latest] == ["980", *map(str, range(981, 1000))]
    finally:
        logging.getLogger("cambox").removeHandler(warnings)


@pytest.fixture
def job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is in a folder as that of a submitted job."""
    folder = tmp_path / "runtime_resources" / "package"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_job_refuses_an_output_that_would_be_deleted_with_it(
    make_config: ConfigMaker, job_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r"^output.uri: boxes is relative, .* give a URL"):
        absolute(make_config("output.uri=boxes"))
    assert absolute(make_config("output.uri=s3://b/boxes")).output.uri == "s3://b/boxes"
    monkeypatch.chdir(tmp_path)
    assert absolute(make_config("output.uri=boxes")).output.uri == str(tmp_path / "boxes")


def test_folders_and_lists_mean_the_same_to_a_worker_in_another_folder(
    make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = absolute(make_config("model.name=local-dir:mine", "input.class_names=names.txt"))
    assert here.model.name == f"local-dir:{tmp_path}/mine"
    assert here.input.class_names == f"{tmp_path}/names.txt"


def test_actors_find_cambox_where_the_driver_has_it(
    job_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path_of(init: Path, **job: object) -> object:
        monkeypatch.setattr(cambox, "__file__", str(init))
        return runtime_env(job).get("env_vars", {}).get("PYTHONPATH")

    installed = tmp_path / "lib" / "site-packages" / "cambox" / "__init__.py"
    sent_along = job_folder / "pipeline" / "cambox" / "__init__.py"
    elsewhere = tmp_path / "code" / "pipeline" / "cambox" / "__init__.py"
    assert path_of(installed) is None
    # Relative: each node has the job's folder in another place.
    assert path_of(sent_along) == "pipeline:${PYTHONPATH}"
    assert path_of(elsewhere) == f"{tmp_path}/code/pipeline:${{PYTHONPATH}}"
    assert path_of(sent_along, env_vars={"PYTHONPATH": "/mine"}) == "pipeline:/mine"
    monkeypatch.chdir(tmp_path)
    assert path_of(elsewhere) == f"{tmp_path}/code/pipeline:${{PYTHONPATH}}"


def test_gpus_are_of_one_kind_by_make_and_compute_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert actor.kind_of(torch.device("cuda")) == "NVIDIA H200, compute capability 9.0"
    assert actor.kind_of(CPU) == "cpu"


class BusyRay:
    """A cluster whose GPUs others have; waiting takes no time here."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cancelled: list[str] = []

    def remote(self, **asked: float) -> Any:
        assert asked == {"num_gpus": 1.0, "num_cpus": 0}
        return lambda function: SimpleNamespace(remote=lambda: "the answer")

    def wait(self, answers: list[str], timeout: float) -> tuple[list[str], list[str]]:
        self.now += timeout
        return [], answers

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 7.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}]

    def cancel(self, answer: str) -> None:
        self.cancelled.append(answer)


def test_a_free_gpu_is_waited_for_with_messages_and_not_for_ever(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    busy = BusyRay()
    monkeypatch.setattr(cluster, "ray", busy)
    monkeypatch.setattr(time, "monotonic", lambda: busy.now)
    engine: Any = SimpleNamespace(pool=Pool.of_one_size(4, 1.0, 8.0, 8))
    ask = cluster.RayEngine._workers_compute_on_gpus
    with pytest.raises(UnavailableError, match=r"^model.precision: .* set bfloat16 or float32"):
        ask(engine, make_config("engine.wait_seconds=300"))
    assert busy.now == 300
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 300 / cluster.PATIENCE_SECONDS - 1
    assert "waiting for a free GPU" in said[0]
    assert "has 1 node of 8 CPUs and 1 GPU, of which 7 CPUs are free" in said[0]
    assert busy.cancelled == ["the answer"]
    # With a precision there is nothing to ask.
    assert not ask(engine, make_config("model.precision=bfloat16"))


def test_missing_workers_are_told_of_less_and_less_often_and_not_waited_for_without_end() -> None:
    waiting = Waiting(limit=200.0, now=0.0, patience=30.0)
    told = [now for now in range(200) if waiting.look(0, 2, float(now)) == "tell"]
    assert told == [31, 92]
    assert waiting.ends(0, 92.0) == "; the run ends in 108 s if none finds a place"
    assert waiting.look(0, 2, 200.0) == "end"


def test_a_run_with_a_single_worker_waits_for_others_as_long_as_it_works() -> None:
    waiting = Waiting(limit=10.0, now=0.0, patience=30.0)
    assert {waiting.look(1, 1, float(now)) for now in range(1000)} == {"go on", "tell"}
    assert waiting.ends(1, 999.0) == ""
    # It has died; another place is waited for as long as the first.
    assert [waiting.look(0, 2, now) for now in (1005.0, 1009.5)] == ["go on", "end"]


def test_all_there_are_waited_for_anew_when_some_are_lost() -> None:
    waiting = Waiting(limit=1e9, now=0.0, patience=30.0)
    assert [waiting.look(1, 1, now) for now in (31.0, 62.0)] == ["tell", "go on"]
    assert waiting.look(2, 0, 63.0) == "go on"
    assert [waiting.look(1, 1, now) for now in (90.0, 94.0)] == ["go on", "tell"]


def test_workers_that_load_are_told_from_those_without_a_place() -> None:
    nodes = [{"NodeID": "a", "Alive": False, "Resources": {"CPU": 8.0}}]
    missing = who_is_missing([Size(0.5, 2.0, 2)] * 2, 1, nodes, {})
    assert missing == (
        "2 workers of 2 CPUs and 0.5 GPUs, 1 worker to load the model; "
        "the cluster has no node, of which 0 CPUs are free"
    )
