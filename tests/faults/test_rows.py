"""Bad samples, bad shards and other orders: every member seen is one row, and no row changes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cambox.summary import RunSummary
from conftest import ConfigMaker
from fault_runs import FaultTable, LocalRuns, samples_in_tars, visible
from makers import write_tar


def test_the_yardstick_sees_what_is_lost_and_what_is_there_twice(
    local_runs: LocalRuns, tmp_path: Path
) -> None:
    clean = local_runs.clean(tmp_path / "out")
    folder = local_runs.folder(tmp_path / "out")
    first, second, _ = sorted(folder.iterdir())
    first.rename(tmp_path / first.name)
    second.with_name("copy.parquet").write_bytes(second.read_bytes())
    table = FaultTable()
    assert table.measure(0, "by hand", 1, folder, clean.samples) == (4, 4)
    with pytest.raises(AssertionError, match="lost and duplicated"):
        table.check(0, "by hand", 1, folder, clean)
    with pytest.raises(AssertionError, match="never injected"):
        table.check(0, "by hand", 0, folder, clean)


@pytest.fixture
def photographs(pictures: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(pictures.glob("*.jpg"))]


def rows_by_status(summary: RunSummary) -> dict[str, Counter[str]]:
    """Of each shard, from the files themselves."""
    table = {}
    for path in Path(summary.folder).glob("*.parquet"):
        rows = pq.read_table(path, columns=["shard", "status"])
        shards = set(rows["shard"].to_pylist())
        table[shards.pop()] = Counter(rows["status"].to_pylist())
        assert not shards
    return table


def test_members_seen_are_rows_by_status_in_each_shard_and_in_all(
    make_config: ConfigMaker, photographs: list[bytes], fault_table: FaultTable, tmp_path: Path
) -> None:
    """Every second sample is bad in its own way; the last shard has nothing but bad ones."""
    whole, other = photographs[:2]
    bad = [
        ("cut.jpg", whole[: len(whole) // 2]),
        ("empty.jpg", b""),
        ("text.jpg", b"no image"),
        ("gone.cls", b"3"),
        ("noise.png", bytes(range(256))),
    ]
    good = [(f"good-{number}.jpg", other) for number in range(len(bad))]
    mixed = [member for pair in zip(bad, good, strict=True) for member in pair]
    tars = [
        write_tar(tmp_path / "mixed.tar", mixed),
        write_tar(tmp_path / "good.tar", good),
        write_tar(tmp_path / "worst.tar", bad),
    ]
    runs = LocalRuns(make_config(f"input.shards={tmp_path}/*.tar"))
    clean = runs.clean(tmp_path / "clean")
    summary = runs.run()
    assert summary.complete
    written = rows_by_status(summary)
    # What the report says is what the files hold is what the tars have.
    assert {report.shard.uri: report.statuses for report in summary.reports} == written
    for tar in tars:
        assert written[str(tar)].total() == samples_in_tars([tar]).total()
    assert sum(written.values(), Counter()) == summary.statuses
    assert summary.samples == samples_in_tars(tars).total() == 20
    rejected = summary.samples - summary.statuses["ok"]
    assert rejected == 2 * len(bad)
    fault_table.check(8, "sample that is no whole image", rejected, summary.folder, clean)
    fault_table.check(21, "status counts against members", len(tars), summary.folder, clean)


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["a", "a"]], ids=["apart", "next to each other"])
def test_a_shard_with_a_repeated_key_is_refused_until_it_is_mended(
    make_config: ConfigMaker,
    photographs: list[bytes],
    fault_table: FaultTable,
    tmp_path: Path,
    keys: list[str],
) -> None:
    path = tmp_path / "shard.tar"
    runs_of = f"input.shards={path}"
    write_tar(path, [(f"{key}.jpg", data) for key, data in zip("abc", photographs, strict=False)])
    times = path.stat().st_mtime_ns
    mended = path.read_bytes()
    runs = LocalRuns(make_config(runs_of))
    clean = runs.clean(tmp_path / "clean")
    write_tar(path, [(f"{key}.jpg", data) for key, data in zip(keys, photographs, strict=False)])
    failures = runs.run().failures
    assert [failure.attempts for failure in failures] == [1]
    folder = runs.folder(tmp_path / "out")
    assert visible(folder) == {}
    path.write_bytes(mended)
    os.utime(path, ns=(times, times))
    assert runs.run().complete
    fault_table.check(9, "shard with a repeated key", len(failures), folder, clean)


def test_a_shard_that_left_the_input_keeps_its_file(
    make_config: ConfigMaker, shards: Path, fault_table: FaultTable, tmp_path: Path
) -> None:
    clean = LocalRuns(make_config()).clean(tmp_path / "out")
    gone = str(shards / "shard-000001.tar")
    fewer = LocalRuns(make_config(f"input.shards={shards}/shard-00000[02].tar")).run()
    assert (fewer.plan.orphaned, fewer.reports) == ((gone,), ())
    orphans = len(fewer.plan.orphaned)
    fault_table.check(15, "shard that left the input", orphans, fewer.folder, clean)


def test_the_order_of_the_input_changes_no_byte_and_threads_no_row(
    make_config: ConfigMaker, shards: Path, fault_table: FaultTable, tmp_path: Path
) -> None:
    clean = LocalRuns(make_config()).clean(tmp_path / "clean")
    names = [str(path) for path in sorted(shards.glob("*.tar"), reverse=True)]
    backwards = LocalRuns(make_config(f"input.shards={names}")).run(tmp_path / "backwards")
    fault_table.check(17, "shards in another order", len(names), backwards.folder, clean)
    changes = ("engine.batch_size=1", "engine.batch_size=7", "engine.cpus_per_worker=2")
    for change in changes:
        other = LocalRuns(make_config(change)).run(tmp_path / change)
        counts = fault_table.measure(
            17, "other batch size or threads", 1, other.folder, clean.samples
        )
        assert counts == (0, 0)
        assert_rows_agree(Path(other.folder), tmp_path / "clean" / other.recipe.folder)


def assert_rows_agree(one: Path, other: Path) -> None:
    """Equal, but for the last bits of sums that are added up in another order."""
    for path in other.glob("*.parquet"):
        mine, theirs = pq.read_table(one / path.name), pq.read_table(path)
        for name in mine.column_names:
            if name not in ("classes", "objects"):
                assert mine[name].equals(theirs[name]), name
        for name in ("classes", "objects"):
            for row, other_row in zip(
                mine[name].to_pylist(), theirs[name].to_pylist(), strict=True
            ):
                assert row == [pytest.approx(entry, abs=1e-4) for entry in other_row]
