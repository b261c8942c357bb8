"""Ray and local give the same rows; what dies is tried again; pools fit their cluster."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
import torch
from rich.console import Console

import cambox
import cambox.sources.load
from cambox.annotator import Annotator
from cambox.config import Config
from cambox.engines.display import RunDisplay
from cambox.engines.local import LocalEngine
from cambox.engines.worklist import ShardFailure
from cambox.models.classifier import Classifier, Scores
from cambox.run import run
from cambox.shard_report import Progress, ShardReport
from cambox.sources.shards import Shard, find_shards
from conftest import ConfigMaker
from fault_driver import driver
from fault_runs import FaultTable, samples_in_tars
from makers import ROOT

QUIET = Console(file=io.StringIO())


def published(folder: str) -> pyarrow.Table:
    table = pyarrow.dataset.dataset(folder).to_table()
    return table.sort_by([("shard", "ascending"), ("sample_index", "ascending")])


@contextmanager
def cluster(**settings: object) -> Iterator[None]:
    import ray

    ray.init(address="local", log_to_driver=False, include_dashboard=False, **settings)
    try:
        yield
    finally:
        ray.shutdown()


def change_workers(folder: Path, code: str = "") -> str:
    """The folder of a ``sitecustomize`` that makes loading slow where cambox can be imported.

    So slow that the second worker is ready before the first has done everything.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        f"{code}\n"
        "try:\n"
        "    import cambox.sources.load as load\n"
        "except ImportError:\n"
        "    pass\n"
        "else:\n"
        "    honest = load.load_sample\n"
        "    def changed(sample, rule):\n"
        "        time.sleep(0.7)\n"
        "        return honest(sample, rule)\n"
        "    load.load_sample = changed\n"
    )
    return str(folder)


# The workers' GPU finds another kind of head than the driver's CPU, and they warn of something.
AT_THE_BORDER = """
import logging
import cambox.models.probe as probe
probe._affine_error = lambda *given: 2 * probe.TOLERANCE
honest_probe = probe.possible_grids
def warn(*given):
    logging.getLogger("cambox.models.probe").warning("it is colder here")
    return honest_probe(*given)
probe.possible_grids = warn
import cambox.models.offset as offset
offset.measured_offset = lambda classifier: 0.5
"""


def gpus_of_ready_workers(log: str) -> set[str]:
    ready = [line for line in log.splitlines() if "worker ready" in line]
    assert len(ready) == 2, log
    assert all("computing on cpu" in line for line in ready)
    return {gpu for line in ready for gpu in ("GPU 0", "GPU 1") if gpu in line}


def published_by_prometheus(port: int, at_least: int) -> float:
    """Rows with the status ok, over all workers; workers report every few seconds."""
    deadline = time.monotonic() + 60
    rows = 0.0
    while rows < at_least and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        counts = [line for line in lines if line.startswith("ray_cambox_samples_total{")]
        rows = sum(float(line.rsplit(" ", 1)[1]) for line in counts if 'status="ok"' in line)
    return rows


@pytest.mark.usefixtures("private_ray")
def test_two_actors_give_the_rows_of_one_process(make_config: ConfigMaker, tmp_path: Path) -> None:
    workers = {"PYTHONPATH": change_workers(tmp_path / "site", AT_THE_BORDER)}
    settings = "output.store_maps=true", "cam.offset=auto"
    local = run(make_config(f"output.uri={tmp_path}/local", *settings), QUIET)
    output = io.StringIO()
    port = free_port()
    with cluster(
        num_cpus=2, num_gpus=2, runtime_env={"env_vars": workers}, _metrics_export_port=port
    ):
        spread = run(
            make_config(
                f"output.uri={tmp_path}/ray",
                *settings,
                "engine.name=ray",
                "engine.workers=2",
            ),
            Console(file=output, width=200),
        )
        assert published_by_prometheus(port, at_least=12) == 12
    assert spread.complete
    assert len(spread.reports) == 3
    expected, actual = published(local.folder), published(spread.folder)
    for name in expected.column_names:
        assert actual[name].equals(expected[name]), name
    assert gpus_of_ready_workers(output.getvalue()) == {"GPU 0", "GPU 1"}
    assert "12 images" in output.getvalue()
    # Said by a worker, and once by each that had something to do.
    warned = re.findall(r"process (\d+): it is colder here", output.getvalue())
    assert len(set(warned)) == len(warned) >= 1
    assert str(os.getpid()) not in warned


@pytest.mark.usefixtures("private_ray")
def test_workers_that_cannot_start_end_the_run_with_the_reason(make_config: ConfigMaker) -> None:
    config = make_config("engine.name=ray", "engine.max_attempts=2")
    with cluster(num_cpus=1):
        from cambox.engines.cluster import RayEngine

        engine = RayEngine(config)
        # The weights vanish between the driver's check and the workers' start.
        model = engine.config.model.model_copy(update={"checkpoint": "/nowhere/weights.pth"})
        engine.config = engine.config.model_copy(update={"model": model})
        shards = tuple(find_shards(config.input.shards))
        outcomes = engine.annotate(shards, RunDisplay(QUIET, 3, 1))
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert isinstance(outcome, ShardFailure)
        assert "no worker could be started" in outcome.reason
        assert "model.checkpoint" in outcome.reason


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# As where cambox is not installed; and every process says where it has it from: a worker, whose
# PYTHONPATH tells it, at its start, and the driver, whose script does, at its end. The driver
# comes first, and finds the kernel compiled.
NOT_INSTALLED = """
sys.path.remove({installed!r})
import atexit, pathlib
def say_where(who):
    if "cambox" in sys.modules:
        with open(os.path.join({notes!r}, who + str(os.getpid())), "w") as note:
            note.write(os.getcwd() + "\\n" + sys.modules["cambox"].__file__)
try:
    import cambox
    say_where("worker")
except ImportError:
    atexit.register(say_where, "driver")
    if os.path.exists("pipeline"):
        sys.path.append({tests!r})
        from compiled import bring_compiled
        sys.path.remove({tests!r})
        bring_compiled(pathlib.Path("pipeline", "cambox"))
"""


@pytest.mark.usefixtures("private_ray")
def test_a_submitted_job_brings_its_code_along_and_gives_the_same_rows(
    make_config: ConfigMaker, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    local = run(make_config(f"output.uri={tmp_path}/local"), QUIET)
    copy, notes = tmp_path / "copy", tmp_path / "notes"
    notes.mkdir()
    for folder in ("pipeline", "jobs", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    installed = str(Path(cambox.__file__).parents[1])
    tests = str(ROOT / "tests")
    hidden = NOT_INSTALLED.format(installed=installed, notes=str(notes), tests=tests)
    site = change_workers(tmp_path / "site", hidden)
    variables = json.dumps({"env_vars": {"PYTHONPATH": site}})
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ray_command = str(Path(sys.executable).with_name("ray"))
    dashboard = free_port()

    submission = [ray_command, "job", "submit", f"--address=http://127.0.0.1:{dashboard}"]
    submission += ["--working-dir", ".", "--runtime-env-json", variables, "--"]
    submission += [sys.executable, "jobs/annotate.py", str(tmp_path / "config.yaml")]
    submission += ["--set", f"output.uri={tmp_path}/job", "--set", "engine.workers=2"]

    def submit() -> subprocess.CompletedProcess[str]:
        deadline = time.monotonic() + 60
        while True:
            result = subprocess.run(
                submission,
                cwd=copy,
                env=environment,
                text=True,
                capture_output=True,
                timeout=200,
                check=False,
            )
            # The port is open before there is anybody to take a job.
            if "No available agent" not in result.stderr or time.monotonic() > deadline:
                return result
            time.sleep(1)

    ports = [f"--port={free_port()}", f"--ray-client-server-port={free_port()}"]
    head = subprocess.Popen(
        [
            *(ray_command, "start", "--head", "--block", "--num-cpus=2", "--num-gpus=2"),
            *(*ports, f"--dashboard-port={dashboard}", "--disable-usage-stats"),
            # Its default may be held by what is left of a cluster that a test has killed.
            f"--dashboard-agent-listen-port={free_port()}",
            f"--temp-dir={tmp_path_factory.getbasetemp().parent / 'head'}",
        ],
        # Nobody's traffic has to end before it does, for which it would wait half a minute.
        env=environment | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for_port(dashboard)
        submitted = submit()
        places = {note.name: note.read_text().split("\n") for note in notes.iterdir()}
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
    log = submitted.stdout + submitted.stderr
    assert submitted.returncode == 0, log
    assert gpus_of_ready_workers(log) == {"GPU 0", "GPU 1"}
    expected = published(local.folder)
    actual = published(str(tmp_path / "job" / Path(local.folder).name))
    for name in expected.column_names:
        assert actual[name].equals(expected[name]), name
    # The driver and both workers, each in the job's own folder.
    assert sorted(name.rstrip("0123456789") for name in places) == ["driver", "worker", "worker"]
    for folder, package in places.values():
        assert "runtime_resources" in folder
        assert package == f"{folder}/pipeline/cambox/__init__.py"


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.3)
    raise TimeoutError(f"nothing listens on port {port}")


def test_the_local_engine_tries_again_when_the_storage_fails(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Annotator.annotate
    calls: list[str] = []

    def flaky(self: Annotator, shard: Shard, *rest: object) -> ShardReport:
        calls.append(Path(shard.uri).name)
        if calls.count("shard-000001.tar") <= 2 and calls[-1] == "shard-000001.tar":
            raise ConnectionResetError(104, "Connection reset by peer")
        if calls[-1] == "shard-000002.tar":
            raise PermissionError(13, "Permission denied")
        return honest(self, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Annotator, "annotate", flaky)
    summary = run(make_config("engine.max_attempts=3"), QUIET)
    assert calls.count("shard-000001.tar") == 3
    (failure,) = summary.failures
    assert (Path(failure.shard.uri).name, failure.attempts) == ("shard-000002.tar", 3)
    assert "PermissionError" in failure.reason
    assert len(summary.reports) == 2


def test_plain_lines_tell_rate_counts_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    output = io.StringIO()
    with RunDisplay(Console(file=output, width=200), 4, 1000) as display:
        display.advance(Progress(bytes_read=250, samples=50))
        display.note("a remark with [brackets]")
    text = output.getvalue()
    assert "shards 0/4 · 50 images" in text
    assert "images/s" in text
    assert " left" in text
    assert "[brackets]" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_bar_fits_the_terminal_and_says_what_matters_most_first(width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=True)
    with RunDisplay(console, 12_345, 10**12) as display:
        display.started -= 3 * 3600
        display.statuses.update(ok=10**6, unreadable=1234, too_large=17)
        display.finished_shards, display.failed_shards = 6_172, 3
        display.advance(Progress(bytes_read=5 * 10**11, samples=123_456_789))
        display.bar.refresh()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()).replace("\r", "\n")
    shown = [line.rstrip() for line in lines.splitlines() if "6172/12345 shards" in line]
    assert shown
    assert max(map(len, shown)) <= width
    assert "50%" in shown[-1]
    # Cut nowhere.
    assert not [line for line in shown if "…" in line]
    assert ("given up 3 · 3 h 00 min left" in shown[-1]) == (width > 40)
    assert ("images/s · too_large 17 · unreadable 1234 · 123456789 images" in shown[-1]) == (
        width > 80
    )


def test_the_shards_are_taken_largest_first(make_config: ConfigMaker) -> None:
    from cambox.output.ledger import plan

    config: Config = make_config()
    sizes = [5, 900, 40]
    shards = [Shard(f"/data/{size}.tar", size, "x") for size in sizes]
    work = plan(shards, LocalEngine(config).recipe, config.output)
    assert [shard.size for shard in work.to_do] == [900, 40, 5]


def test_out_of_memory_halves_the_batch_and_gives_the_same_rows(
    make_config: ConfigMaker,
    tmp_path: Path,
    shards: Path,
    fault_table: FaultTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean = run(make_config(f"output.uri={tmp_path}/clean", "engine.batch_size=2"), QUIET)
    honest = Classifier.scores
    sizes: list[int] = []

    def small_memory(self: Classifier, images: np.ndarray) -> Scores:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(self, images)

    monkeypatch.setattr(Classifier, "scores", small_memory)
    output = io.StringIO()
    summary = run(make_config("engine.batch_size=4"), Console(file=output, width=200))
    assert summary.complete
    # The built-in pictures fit. Four do not once; after that no more than two are tried, in later
    # shards too.
    assert sizes == [2, 4, 2, 2, 2, 2, 2, 2]
    assert output.getvalue().count("out of memory: 2 images at a time from now on") == 1
    assert published(summary.folder).equals(published(clean.folder))
    samples = samples_in_tars(list(shards.glob("*.tar")))
    raised = sum(size > 2 for size in sizes)
    assert fault_table.measure(16, "out of memory", raised, summary.folder, samples) == (0, 0)


def test_a_single_image_that_does_not_fit_gives_its_shard_up(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(self: Classifier, images: np.ndarray) -> Scores:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Classifier, "scores", no_memory)
    summary = run(make_config("engine.max_attempts=2"), QUIET)
    assert len(summary.failures) == 3
    assert all("OutOfMemoryError" in failure.reason for failure in summary.failures)


def test_a_worker_short_of_memory_fails_the_attempt_and_publishes_nothing(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(data: bytes, max_pixels: int) -> np.ndarray:
        raise MemoryError("played")

    with monkeypatch.context() as short:
        short.setattr(cambox.sources.load, "decode_image", decode)
        failed = run(make_config(), QUIET)
    assert [failure.reason for failure in failed.failures] == ["MemoryError: played"] * 3
    assert [failure.attempts for failure in failed.failures] == [3] * 3
    assert not failed.reports
    assert run(make_config(), QUIET).statuses == {"ok": 12}


@contextmanager
def server_that_hangs() -> Iterator[tuple[str, threading.Semaphore]]:
    """An HTTP server that answers with a length, and then says nothing; and how often it did."""
    silent = threading.Semaphore(0)
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "102400")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            silent.release()
            over.wait()

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}", silent
    finally:
        over.set()
        httpd.shutdown()
        httpd.server_close()


def test_signals_are_heard_while_a_storage_hangs(make_config: ConfigMaker, tmp_path: Path) -> None:
    """Ctrl-C, and SIGTERM to a night, which leaves its report; within ten seconds both."""
    make_config()
    signals = {"annotate": signal.SIGINT, "nightly": signal.SIGTERM}
    logs = {command: tmp_path / f"{command}.log" for command in signals}
    with server_that_hangs() as (url, silent), ExitStack() as stack:
        runs = {}
        for command in signals:
            arguments = [command, str(tmp_path / "config.yaml")]
            arguments += ["--set", f"input.shards={url}/a.tar"]
            arguments += ["--set", f"output.uri={tmp_path / command}"]
            runs[command] = stack.enter_context(driver(arguments, None, logs[command]))
        for _ in runs:
            assert silent.acquire(timeout=60)
        start = time.monotonic()
        for command, process in runs.items():
            assert process.pid is not None
            os.kill(process.pid, signals[command])
        for process in runs.values():
            process.join(30)
        assert time.monotonic() - start < 10
    assert [process.exitcode for process in runs.values()] == [130, 143]
    for log in logs.values():
        text = log.read_text()
        assert "interrupted: 0 of 1 shard published" in text
        assert "Traceback" not in text
    (report,) = (tmp_path / "nightly" / "_runs").glob("*.json")
    assert json.loads(report.read_text())["exit_code"] == 143
    assert not list(tmp_path.glob("*/*/*.parquet"))
