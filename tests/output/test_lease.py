"""Who may begin: one run at a time, by clocks that differ, and after holders that died."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from cambox.cli.options import carry_out
from cambox.errors import UnavailableError
from cambox.output.lease import (
    CLOCKS_DIFFER,
    LEASE,
    Lease,
    held,
    release,
    renew,
    take,
)

NOW = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)
ELSEWHERE = "another machine"


def lease(now: datetime, token: str = "one", **more: object) -> Lease:
    here = Lease.of_this_process(now)
    return here.model_copy(update={"token": token, "machine": ELSEWHERE, **more})


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path)
    return f"{root}/out/0123456789abcdef"


def file_of(folder: str) -> tuple[fsspec.AbstractFileSystem, str]:
    found: tuple[fsspec.AbstractFileSystem, str] = fsspec.url_to_fs(
        f"{folder.rpartition('/')[0]}/_runs/0123456789abcdef/lease.json"
    )
    return found


def test_the_second_learns_who_has_it_since_when_and_until_when(folder: str) -> None:
    first = take(folder, lease(NOW, holder="ann@gpu-1, process 7"))
    assert first.from_dead is None
    with pytest.raises(UnavailableError) as told:
        take(folder, lease(NOW + timedelta(minutes=2), "two"))
    text = str(told.value)
    assert folder in text
    assert "ann@gpu-1, process 7, since 2026-01-31 02:30:00 UTC" in text
    assert "after 02:36:00 UTC" in text
    with pytest.raises(SystemExit) as end:
        carry_out(lambda: take(folder, lease(NOW, "two")))
    assert end.value.code == 1
    release(first)
    filesystem, path = file_of(folder)
    assert not filesystem.exists(path)
    assert take(folder, lease(NOW, "two")).from_dead is None


@pytest.mark.parametrize("ahead", [-CLOCKS_DIFFER, timedelta(0), CLOCKS_DIFFER])
def test_a_renewed_lease_holds_by_a_clock_that_is_a_minute_off(
    folder: str, ahead: timedelta
) -> None:
    first = take(folder, lease(NOW))
    for minute in range(1, 20):
        moment = NOW + timedelta(minutes=minute)
        with pytest.raises(UnavailableError):
            take(folder, lease(moment + ahead, "two"))
        assert renew(first, moment)
    # And one that is not renewed ends, by any of them.
    late = NOW + timedelta(minutes=19) + LEASE + 2 * CLOCKS_DIFFER + timedelta(seconds=1)
    taken = take(folder, lease(late + ahead, "two"))
    assert taken.from_dead is not None
    assert taken.from_dead.token == "one"


def test_a_holder_that_was_thought_dead_does_not_disturb_the_next(folder: str) -> None:
    first = take(folder, lease(NOW))
    second = take(folder, lease(NOW + timedelta(hours=1), "two"))
    assert not renew(first, NOW + timedelta(hours=1))
    release(first)
    assert renew(second, NOW + timedelta(hours=1))


def test_of_two_that_take_it_at_once_one_has_it(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other takes it between the look and the write."""
    from cambox.output import lease as module

    honest = module.put
    taken = []

    def late(*arguments: object) -> bool:
        monkeypatch.setattr(module, "put", honest)
        taken.append(take(folder, lease(NOW, "other")))
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "put", late)
    with pytest.raises(UnavailableError):
        take(folder, lease(NOW, "one"))
    assert renew(taken[0], NOW)


def test_of_its_own_machine_a_run_knows_who_is_dead(folder: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1) as run:
        here = Lease.of_this_process(NOW).machine
        take(folder, lease(NOW, machine=here, process=run.pid))
        with pytest.raises(UnavailableError):
            take(folder, lease(NOW, "two"))
        run.kill()
        run.wait()
        # On another machine a process of this number may well live.
        dead = lease(NOW, process=run.pid)
        assert not dead.is_over(NOW)
        assert take(folder, lease(NOW, "two")).from_dead is not None


def test_one_that_does_not_parse_holds_nobody_off(folder: str) -> None:
    filesystem, path = file_of(folder)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    for damage in (b"", b"{}", b'{"holder": '):
        filesystem.pipe_file(path, damage)
        release(take(folder, lease(NOW)))


def test_it_is_renewed_while_work_goes_on_and_given_back_however_that_ends(folder: str) -> None:
    times = iter(NOW + timedelta(seconds=number) for number in range(10_000))
    with held(folder, None, lambda: next(times), timedelta(milliseconds=5)) as taken:
        assert taken is not None
        filesystem, path = file_of(folder)
        until = taken.lease.until
        deadline = time.monotonic() + 10
        while until == taken.lease.until and time.monotonic() < deadline:
            until = Lease.model_validate_json(filesystem.cat_file(path)).until
        assert until > taken.lease.until
    assert not filesystem.exists(path)
    with pytest.raises(KeyboardInterrupt), held(folder):
        raise KeyboardInterrupt
    assert not filesystem.exists(path)


def test_a_run_goes_on_where_none_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "_runs").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING), held(str(tmp_path / "0123456789abcdef")) as taken:
        assert taken is None
    assert "no lease can be written" in caplog.text
