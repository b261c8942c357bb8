"""A share of the requests that ``python -m bench settings`` gives to ``cambox plan``."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import settings_fuzz
from bench.settings_cases import Case, cases, keys
from bench.settings_fuzz import Ended, fuzz, prepare

GOOD = {"exit 0", "exit 1", "exit 2"}


def test_no_settings_end_in_a_traceback_a_crash_or_a_riddle(tmp_path: Path) -> None:
    prepare(tmp_path)
    ended = list(fuzz(list(cases(seed=3, count=150, folder=tmp_path)), tmp_path))
    assert [f"{one.outcome}: {one.case}\n{one.said}" for one in ended if one.is_bad] == []
    assert len(ended) == 150
    # Most are nonsense, and some are not.
    assert {one.outcome for one in ended} >= {"exit 0", "exit 2"}


def test_what_is_looked_for_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        b"0": "raise ValueError('x')",
        b"1": "os.kill(os.getpid(), 9)",
        b"2": "time.sleep(60)",
        b"3": "print('cambox: no'); sys.exit(2)",
        b"4": "print('cambox: input: a'); print('and more'); sys.exit(2)",
        b"5": "print('hunter2')",
        b"6": "print('\\x1b[2J')",
        b"7": "print('cambox: input.shards: no'); sys.exit(2)",
        b"8": "pass",
    }

    def play(command: object) -> None:
        exec(f"import os, sys, time; {said[Path('config.yaml').read_bytes()]}")

    monkeypatch.setattr(settings_fuzz, "carry_out", play)
    monkeypatch.setattr(settings_fuzz, "PATIENCE", 0.1)
    ended: list[Ended] = list(fuzz([Case(int(name), name) for name in said], tmp_path))
    assert [one.outcome for one in ended] == [
        *("a traceback", "dies with 9", "hangs", "nothing is named", "not one line"),
        *("tells a secret", "controls the terminal", "exit 2", "exit 0"),
    ]


def test_every_setting_is_tried() -> None:
    assert {"input", "model.kwargs", "cam.zoom.agreement.votes", "engine.name"} <= set(keys())
