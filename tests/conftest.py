"""Fixtures that several stations' tests share."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import cambox.sources.retry
from cambox.config import Config
from cambox.config_file import load_config
from cambox.sources.pack import pack
from fault_runs import FaultTable, LocalRuns
from makers import SHARED

FAULTS = pytest.StashKey[FaultTable]()
# What `make check` leaves to `make test`: killed processes, clusters, dozens of networks, whole
# runs and the commands of the docs.
SLOW_FOLDERS = ("bench", "demo", "docs", "faults", "models", "nightly", "research", "whole")
SLOW_FILES = (
    *("test_cli.py", "test_engines.py", "test_evaluate_command.py", "test_failed_rows.py"),
    *("test_gallery_browser.py", "test_gallery_review_browser.py", "test_kernel.py"),
    *("test_light.py", "test_loss.py", "test_measure.py", "test_peers.py", "test_plan.py"),
    *("test_probe.py", "test_rebox.py", "test_surface.py", "test_train.py", "test_tune.py"),
    *("test_verify.py", "test_wheel.py", "test_worker.py"),
)


@pytest.fixture(autouse=True)
def signals_stay_as_they_were() -> Iterator[None]:
    """A command that ran in this process hears them; a later test's would end the process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            # None is a handler that is not Python's.
            if handler is not None:
                signal.signal(number, handler)


@pytest.fixture(autouse=True)
def one_thread_of_torch() -> Iterator[None]:
    """A run in this process takes its settings' number; two tests' threads wait for each other."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs and weights, beside the repository where they are at hand."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the photographs and weights in ../shared, which are not here")
    return SHARED


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small pictures of coloured noise in different sizes, with classes from 0 to 9."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    lines = ["image,class_index"]
    for index in range(12):
        height, width = generator.integers(40, 90, 2)
        grain = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(grain).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        image.save(folder / f"picture-{index:02d}.jpg", quality=95)
        lines.append(f"picture-{index:02d}.jpg,{index % 10}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures in three shards of four."""
    folder = tmp_path_factory.mktemp("shards")
    pack(pictures, folder, pictures / "labels.csv", samples_per_shard=4)
    return folder


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storages that are asked again in this process are asked at once."""
    monkeypatch.setattr(cambox.sources.retry, "FIRST_PAUSE_SECONDS", 0.01)


ConfigMaker = Callable[..., Config]


@pytest.fixture
def make_config(tmp_path: Path, shards: Path) -> ConfigMaker:
    """A configuration of a tiny network with random weights, with settings to override."""
    path = tmp_path / "config.yaml"
    document = {
        "input": {"shards": [str(shards / "*.tar")]},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
        "cam": {"top_k": 3},
        "output": {"uri": str(tmp_path / "out")},
        "engine": {"batch_size": 3, "cpus_per_worker": 1},
    }
    path.write_text(yaml.safe_dump(document))

    def make(*overrides: str) -> Config:
        return load_config(path, overrides)

    return make


@pytest.fixture(scope="session")
def private_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray clusters that the tests start are their own and meet no other on this machine."""
    before = dict(os.environ)
    os.environ.update(
        RAY_ADDRESS="local",
        RAY_AUTH_MODE="disabled",
        RAY_USAGE_STATS_ENABLED="0",
        # Else 15, and the tests beside them leave a cluster's workers a thirtieth of a processor.
        RAY_worker_niceness="0",
        # Short: the paths of Ray's sockets end at 107 characters.
        RAY_TMPDIR=str(tmp_path_factory.getbasetemp().parent / "ray"),
    )
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def local_runs(make_config: ConfigMaker) -> LocalRuns:
    """Runs over the three shards in this process, one thread each, with one loaded model."""
    return LocalRuns(make_config())


@pytest.fixture
def fault_table(request: pytest.FixtureRequest) -> FaultTable:
    """Where the tests note what they injected and what was lost; printed at the end."""
    return fault_table_of(request.config)


def fault_table_of(config: pytest.Config) -> FaultTable:
    """The table of this process."""
    return config.stash.setdefault(FAULTS, FaultTable())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out, and what goes to the same process of several.

    A file stays together for its fixtures, and one cluster at a time is enough for a machine.
    """
    for item in items:
        on_ray = "private_ray" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if on_ray else str(item.path)))
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)


def is_slow(path: Path) -> bool:
    """Whether the tests of a file are left to ``make test``."""
    return path.parent.name in SLOW_FOLDERS or path.name in SLOW_FILES


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What would not be run is not imported either, which takes half a minute."""
    return (config.option.markexpr == "not slow" and is_slow(collection_path)) or None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One process of several hands on what its faults did."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = fault_table_of(session.config).entries()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The process of all takes what one of several hands on."""
    fault_table_of(node.config).add(getattr(node, "workeroutput", {}).get("faults", []))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the faults did: the last two columns are measured."""
    table = fault_table_of(config)
    if table.measured:
        terminalreporter.section("faults injected; samples lost and duplicated")
        for line in table.lines():
            terminalreporter.write_line(line)
