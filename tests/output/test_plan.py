"""What a run has to do, read from footers: orphans, versions, fingerprints, leftovers; JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from packaging.version import Version
from rich.console import Console

from cambox.config import Config
from cambox.run import prepare, run
from cambox.summary import RunSummary
from conftest import ConfigMaker

QUIET = Console(file=io.StringIO())


@pytest.fixture
def finished(make_config: ConfigMaker, tmp_path: Path, shards: Path) -> tuple[Config, RunSummary]:
    """A finished run over a folder that a test may change."""
    folder = tmp_path / "input"
    folder.mkdir()
    for path in shards.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = make_config(f"input.shards={folder}/*.tar")
    return config, run(config, QUIET)


def made_by(path: Path, version: str) -> None:
    """Rewrite a published file as if another version had made it."""
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    versions = json.loads(metadata[b"cambox.versions"]) | {"cambox": version}
    metadata[b"cambox.versions"] = json.dumps(versions).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_a_shard_that_left_the_input_is_reported_and_its_file_stays(
    finished: tuple[Config, RunSummary], tmp_path: Path
) -> None:
    config, first = finished
    gone = tmp_path / "input" / "shard-000001.tar"
    gone.unlink()
    output = io.StringIO()
    second = run(config, Console(file=output, width=300))
    assert second.plan.orphaned == (str(gone),)
    assert f"orphaned, no longer in the input: {gone}" in output.getvalue()
    assert len(list(Path(first.folder).iterdir())) == 3
    assert second.to_json()["shards"]["orphaned"] == [str(gone)]


def test_an_upgrade_redoes_nothing_unless_asked(finished: tuple[Config, RunSummary]) -> None:
    config, first = finished
    files = sorted(Path(first.folder).iterdir())
    made_by(files[0], "0.0.9")
    output = io.StringIO()
    _, work = prepare(config, Console(file=output, width=300))
    assert len(work.done) == 3
    assert "cambox 0.0.9 (1 file)" in output.getvalue()
    _, asked = prepare(config, QUIET, Version("0.0.9"))
    assert len(asked.outdated) == 0
    again = run(config, QUIET, Version("0.2.0"))
    assert [report.uri for report in again.reports] == [str(files[0])]
    assert again.plan.done == first.plan.new[1:]
    assert prepare(config, QUIET)[1].mixed_versions == ()


def test_content_fingerprints_ignore_the_time_and_see_every_byte(
    make_config: ConfigMaker, finished: tuple[Config, RunSummary], tmp_path: Path
) -> None:
    config = make_config(f"input.shards={tmp_path}/input/*.tar", "input.fingerprint=content")
    assert len(run(config, QUIET).reports) == 3
    shard = tmp_path / "input" / "shard-000000.tar"
    os.utime(shard, ns=(1, 1))
    assert run(config, QUIET).reports == ()
    data = bytearray(shard.read_bytes())
    changed = data.replace(b"picture-00", b"picture-xx")
    assert len(changed) == len(data)
    times = shard.stat()
    shard.write_bytes(changed)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    # The header's checksum no longer fits, so the shard is read again and refused.
    (failure,) = run(config, QUIET).failures
    assert failure.shard.uri == str(shard)


def test_abandoned_temporary_files_are_removed_and_fresh_ones_are_not(
    finished: tuple[Config, RunSummary],
) -> None:
    config, first = finished
    file = next(Path(first.folder).iterdir())
    fresh, old = (file.with_name(f".{file.name}.77-{word}") for word in ("aaaa", "bbbb"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 48 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    output = io.StringIO()
    run(config, Console(file=output))
    assert "removed 1 temporary files" in output.getvalue()
    assert fresh.exists()
    assert not old.exists()


def test_json_is_one_object_with_what_the_run_did(tmp_path: Path, shards: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_text("no tar")
    path = tmp_path / "run.yaml"
    document = {
        "input": {"shards": [str(shards / "*.tar"), str(bad)]},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
        "cam": {"top_k": 2},
        "output": {"uri": str(tmp_path / "out")},
    }
    path.write_text(yaml.safe_dump(document))

    def cambox(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cambox", *arguments, str(path), "--json"]
        return subprocess.run(command, text=True, capture_output=True, check=False)

    result = cambox("annotate")
    assert result.returncode == 1
    summary = json.loads(result.stdout)
    assert summary["rows_by_status"] == {"ok": 12}
    assert (summary["shards"]["published"], summary["complete"]) == (3, False)
    assert [entry["shard"] for entry in summary["shards"]["given_up"]] == [str(bad)]
    stages = summary["stage_milliseconds_per_image"]
    assert set(stages) == {"read", "decode", "forward", "boxes", "write"}
    assert all(value > 0 for value in stages.values())
    planned = json.loads(cambox("plan").stdout)
    assert planned["new"] == [str(bad)]
    assert len(planned["done"]) == 3
