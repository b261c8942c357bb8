"""What a run has to do, read from footers: orphans, versions, fingerprints, leftovers; JSON."""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from packaging.version import Version
from rich.console import Console

from cambox.config import Config, OutputSettings
from cambox.output.ledger import Redo, plan
from cambox.output.publish import publish
from cambox.run import prepare, run
from cambox.sources.shards import find_shards
from cambox.summary import RunSummary
from conftest import ConfigMaker
from makers import exit_code_here, publish_rows

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


def test_json_is_one_object_with_what_the_run_did(
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
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

    assert exit_code_here(monkeypatch, "annotate", str(path), "--json") == 1
    summary = json.loads(capfd.readouterr().out)
    assert summary["rows_by_status"] == {"ok": 12}
    assert (summary["shards"]["published"], summary["complete"]) == (3, False)
    assert [entry["shard"] for entry in summary["shards"]["given_up"]] == [str(bad)]
    stages = summary["stage_milliseconds_per_image"]
    assert set(stages) == {"read", "decode", "forward", "boxes", "write"}
    assert all(value > 0 for value in stages.values())
    assert exit_code_here(monkeypatch, "plan", str(path), "--json") == 0
    planned = json.loads(capfd.readouterr().out)
    assert planned["new"] == [str(bad)]
    assert len(planned["done"]) == 3


def test_a_damaged_footer_makes_a_shard_changed_and_stops_no_run(tmp_path: Path) -> None:
    made = publish_rows(tmp_path)
    shards = find_shards([str(path) for path in made.shards])
    output = OutputSettings(uri=str(made.output))
    file = min(made.folder.glob("*.parquet"))
    data = bytearray(file.read_bytes())
    footer = len(data) - pq.read_metadata(file).serialized_size - 8
    outcomes = Counter[int]()
    for place in range(footer, len(data), 40):
        data[place] ^= 1 << place % 8
        file.write_bytes(data)
        data[place] ^= 1 << place % 8
        work = plan(shards, made.recipe, output, Redo(Version("0.0.1")))
        assert str(work)
        assert work.mixed_versions is not None
        outcomes[len(work.changed)] += 1
    assert outcomes[1] > 50
    for key, value in (
        ("versions", {}),
        ("versions", {"cambox": "0.2/0"}),
        ("versions", {"cambox": 7}),
        ("recipe_digest", "0" * 64),
        ("shard", {"uri": 1, "size": 1, "fingerprint": ""}),
    ):
        table = pq.read_table(pa.BufferReader(bytes(data)))
        text = value if isinstance(value, str) else json.dumps(value)
        entries = {**table.schema.metadata, f"cambox.{key}".encode(): text.encode()}
        pq.write_table(table.replace_schema_metadata(entries), file)
        assert len(plan(shards, made.recipe, output, Redo(Version("0.0.1"))).changed) == 1


def test_no_rows_beside_rows_are_not_done_and_no_rows_of_an_empty_shard_are(
    tmp_path: Path,
) -> None:
    made = publish_rows(tmp_path)
    shards = find_shards([str(path) for path in made.shards])
    output = OutputSettings(uri=str(made.output))
    file = min(made.folder.glob("*.parquet"))
    none = pq.read_table(file).slice(0, 0)
    for entries in (none.schema.metadata, pq.read_metadata(file).metadata):
        pq.write_table(none.replace_schema_metadata(entries), file)
        assert len(plan(shards, made.recipe, output).changed) == 1
    publish(none, shards[0], made.recipe, output)
    assert len(plan(shards, made.recipe, output).done) == 3
