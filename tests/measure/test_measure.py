"""``cambox bench`` on small shards, and how it ends in time whatever the shards are."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cambox.cli import app
from cambox.errors import UnavailableError
from cambox.measure.countdown import Countdown
from cambox.measure.figures import PARTS
from cambox.measure.whole import end_to_end
from cambox.shard_report import Progress
from cambox.sources.shards import Shard
from conftest import ConfigMaker


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_small_shards_are_measured_and_nothing_is_left(
    make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_config()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    given = [str(tmp_path / "config.yaml"), "--seconds", "2", "--json"]
    given += ["--price-per-hour", "3.6", "--images", "1000000", "--hours", "1"]
    result = run(*given, "--set", "engine.name=ray")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rates, job = found["rates"], found["job"]
    assert all(rates[part] > 0 for part in (*PARTS, "end_to_end", "megabytes"))
    assert set(rates["stage_milliseconds"]) == {"read", "decode", "forward", "boxes", "write"}
    assert (found["shards"], found["images"]) == (3, 12)
    worker = found["worker"]
    assert (worker["device"], worker["threads"], worker["batch_size"]) == ("cpu", 1, 3)
    assert found["advice"]
    # At 3.6 an hour a million images cost a thousand seconds of one a second.
    assert job["cost_per_million"] == pytest.approx(1000 / rates["end_to_end"])
    assert job["workers"] == -(-1_000_000 // (3600 * rates["end_to_end"]))
    for part in (*PARTS, "end to end"):
        assert f"{part}: " in result.stderr
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "no sample of 1 shards can be"),
        (lambda path: path.write_bytes(b""), "no sample of 1 shards can be read: "),
    ],
)
def test_shards_that_hold_nothing_are_a_wrong_request(
    make_config: ConfigMaker,
    shards: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    make_config()
    shard = tmp_path / "a.tar"
    shard.write_bytes(next(iter(shards.glob("*.tar"))).read_bytes())
    damage(shard)
    result = run(str(tmp_path / "config.yaml"), "--set", f"input.shards={shard}")
    assert result.exit_code != 0
    assert message in str(result.exception)


class Endless:
    """An annotator of shards that have no end, until it is closed; or of none that can be read."""

    def __init__(self, error: Exception | None = None, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.error = error
        self.lanes = ["one", "another"]
        self.closed = threading.Event()
        self.begun: list[str] = []

    def annotate(
        self, shard: Shard, on_progress: Callable[[Progress], None], on_read: Callable[[], None]
    ) -> None:
        self.begun.append(shard.uri)
        if self.error is not None:
            raise self.error
        # Two lanes that end at the same time.
        while not self.closed.wait(self.seconds):
            on_progress(Progress(samples=5))
            on_progress(Progress(samples=5))
        raise RuntimeError("closed")

    def close(self, wait: bool = True) -> None:
        self.closed.set()


SHARDS = tuple(Shard(name, 1, "x") for name in ("a", "b"))


def test_a_run_over_shards_without_end_is_ended_when_its_time_is_up() -> None:
    endless: Any = Endless()
    told: list[float] = []
    start = time.perf_counter()
    rate, stages = end_to_end(endless, SHARDS, 0.5, lambda part, rate: told.append(rate))
    assert 0.5 <= time.perf_counter() - start < 3
    assert endless.begun == ["a"], "the next is begun when one is read"
    # Ten each hundredth of a second, or a little later.
    assert 200 < rate <= 1000
    assert told[-1] == rate
    assert stages == {}, "none came to its end"


def test_a_slow_network_has_time_for_some_batches() -> None:
    # Of two lanes three batches each, where there was time for less than one.
    slow: Any = Endless(seconds=0.2)
    start = time.perf_counter()
    rate, _ = end_to_end(slow, SHARDS, 0.1, lambda part, rate: None)
    assert time.perf_counter() - start > 0.6
    assert 25 < rate <= 50


def test_a_run_in_which_no_shard_can_be_read_says_why() -> None:
    broken: Any = Endless(OSError(5, "Input/output error"))
    with pytest.raises(UnavailableError, match=r"no shard was annotated: .*Input/output error"):
        end_to_end(broken, SHARDS, 0.1, lambda part, rate: None)
    assert broken.begun == ["a", "b"]


def test_lines_tell_each_part_its_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    said = io.StringIO()
    with Countdown(Console(file=said, width=80), 60.0) as countdown:
        # Between the parts a model was loaded for 100 s.
        for part, moments in {"storage": (0, 11, 12), "decode": (112, 120)}.items():
            for moment in moments:
                now = float(moment)
                countdown.tell(part, 1234.5)
    assert said.getvalue().splitlines() == [
        "storage: 1,234.5 images/s · 49 s left",
        "storage: 1,234.5 images/s · 48 s left",
        "decode: 1,234.5 images/s · 40 s left",
    ]
