"""From s3:// to s3://, against a real S3 server on loopback, healthy and failing."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from cambox.cli import app
from cambox.errors import RequestError, UnavailableError
from cambox.nightly.night import run_night
from cambox.output.latest import latest_folder
from cambox.output.reading import open_recipe
from cambox.output.whole import publish_bytes
from cambox.rebox.rebox import rebox_output
from cambox.review.diff.compare import compare
from cambox.review.gallery.collect import collect
from cambox.run import prepare, run
from cambox.summary import RunSummary
from cambox.verify.verify import verify
from conftest import ConfigMaker
from faulty_s3 import FAULTS, Choose, Fault, FaultyProxy, Kind, at_random
from s3_bucket import Bucket, named, quick

NUMBERS = count()
QUIET = Console(file=io.StringIO())
Rows = dict[str, dict[str, Any]]


@pytest.fixture
def clean(make_config: ConfigMaker, six: Path, tmp_path: Path) -> Rows:
    """The rows of a run on the local disk."""
    summary = run(make_config(f"input.shards={six}/*.tar", f"output.uri={tmp_path}/local"), QUIET)
    return dict(named(pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()))


def test_the_rows_are_those_of_a_local_run_and_a_rerun_does_nothing(
    bucket: Bucket, clean: Rows
) -> None:
    config = bucket.config()
    summary = run(config, QUIET)
    assert summary.complete
    assert sorted(name for name, _ in bucket.rows()) == sorted(clean)
    assert dict(bucket.rows()) == clean
    assert len(clean) == 12
    before = bucket.objects("")
    again = run(config, QUIET)
    assert (len(again.plan.done), again.reports) == (6, ())
    assert bucket.objects("") == before
    assert all("etag=" in shard.fingerprint for shard in again.plan.done)
    checked = verify(
        summary.folder,
        config.output.storage_options,
        against_input=True,
        input_storage_options=config.input.storage_options,
    )
    assert checked.ok, checked.problems
    assert (checked.files, checked.rows) == (6, 12)


def test_a_changed_object_is_redone_and_one_that_is_gone_is_an_orphan(
    bucket: Bucket, six: Path, clean: Rows
) -> None:
    config = bucket.config()
    run(config, QUIET)
    before = bucket.published()
    other = (six / "shard-000005.tar").read_bytes()
    bucket.client.put_object(Bucket=bucket.name, Key="in/shard-000002.tar", Body=other)
    bucket.client.delete_object(Bucket=bucket.name, Key="in/shard-000004.tar")
    again = run(config, QUIET)
    gone = f"s3://{bucket.name}/in/shard-000004.tar"
    assert again.plan.orphaned == (gone,)
    assert [shard.uri for shard in again.plan.changed] == [
        f"s3://{bucket.name}/in/shard-000002.tar"
    ]
    after = bucket.published()
    assert after.keys() == before.keys()
    assert sum(after[key] != before[key] for key in after) == 1
    # The same bytes again have the same ETag, so nothing is redone though the time is another.
    bucket.client.put_object(Bucket=bucket.name, Key="in/shard-000002.tar", Body=other)
    assert prepare(config, QUIET)[1].to_do == ()
    assert "shard-000002.tar picture-10" in dict(bucket.rows())


def test_a_night_moves_the_pointer(bucket: Bucket) -> None:
    config = bucket.config()
    report = run_night(config, date(2026, 1, 31), ["nightly"], QUIET)
    assert report.exit_code == 0
    assert report.recipe is not None
    assert latest_folder(config.output) == f"s3://{bucket.name}/out/{report.recipe.folder}"
    assert {key.rpartition(".")[2] for key in bucket.objects("out/_runs/")} == {"json", "html"}
    assert "out/_latest.json" in bucket.objects("out/")


def test_what_is_large_is_uploaded_in_parts_and_seen_whole(bucket: Bucket) -> None:
    data = bytes(101 << 20)

    def choose(kind: Kind, path: str) -> Fault | None:
        return "internal_error" if kind == "PUT" and proxy.requests["PUT"] in (2, 4) else None

    proxy = FaultyProxy(bucket.server, choose)
    with proxy.running() as endpoint:
        publish_bytes(f"s3://{bucket.name}/large", data, quick(endpoint))
    assert proxy.injected == {("PUT", "internal_error"): 2}
    head = bucket.client.head_object(Bucket=bucket.name, Key="large")
    assert head["ContentLength"] == len(data)
    assert head["ETag"].endswith('-3"')
    uploads = bucket.client.list_multipart_uploads(Bucket=bucket.name)
    assert not uploads.get("Uploads")


@dataclass(frozen=True)
class FaultyRun:
    """A run whose every request went through a failing proxy."""

    summary: RunSummary
    injected: Counter[tuple[Kind, Fault]]


def run_with_faults(bucket: Bucket, choose: Choose, *overrides: str) -> FaultyRun:
    proxy = FaultyProxy(bucket.server, choose)
    with proxy.running() as endpoint:
        summary = run(bucket.config(quick(endpoint), *overrides), QUIET)
    return FaultyRun(summary, proxy.injected)


def test_failing_requests_change_nothing_of_the_rows(bucket: Bucket, clean: Rows) -> None:
    injected: Counter[tuple[Kind, Fault]] = Counter()
    lost, twice = 0, 0
    choose = at_random(seed=1, share=0.45, most_in_a_row=2)
    for round_ in range(3):
        output = f"output.uri=s3://{bucket.name}/out-{round_}"
        first = run_with_faults(bucket, choose, output)
        assert first.summary.complete, first.summary.failures
        published = bucket.published(f"out-{round_}/")
        # What is done is read from footers, through faults as well.
        again = run_with_faults(bucket, choose, output)
        assert (len(again.summary.plan.done), again.summary.reports) == (6, ())
        assert bucket.published(f"out-{round_}/") == published
        rows = bucket.rows(f"out-{round_}/")
        keys = Counter(name for name, _ in rows)
        lost += len(clean.keys() - keys.keys())
        twice += keys.total() - len(keys)
        assert dict(rows) == clean
        injected.update(first.injected + again.injected)
    print(f"{injected.total()} faults, {lost} samples lost, {twice} duplicated: {dict(injected)}")
    assert (lost, twice) == (0, 0)
    assert injected.keys() == {(kind, fault) for kind in FAULTS for fault in FAULTS[kind]}
    assert injected.total() > 40


def always(kind: Kind, part: str, fault: Fault) -> Choose:
    return lambda is_kind, path: fault if is_kind == kind and part in path else None


def annotate(bucket: Bucket, choose: Choose, tmp_path: Path, *overrides: str) -> Result:
    """As the command does it, with its exit code."""
    proxy = FaultyProxy(bucket.server, choose)
    with proxy.running() as endpoint:
        path = tmp_path / "s3.yaml"
        config = bucket.config(quick(endpoint), "engine.max_attempts=1", *overrides)
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        return CliRunner().invoke(app, ["annotate", str(path)])


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("GET", "internal_error"), ("HEAD", "slow_down"), ("PUT", "reset")],
)
def test_a_shard_whose_storage_never_recovers_is_named_and_nothing_short_is_published(
    bucket: Bucket, clean: Rows, tmp_path: Path, kind: Kind, fault: Fault
) -> None:
    # On the way in it is the shard, on the way out its file: both have its name.
    result = annotate(bucket, always(kind, "shard-000003", fault), tmp_path)
    assert result.exit_code == 1, result.output
    assert f"given up: s3://{bucket.name}/in/shard-000003.tar: StorageError: " in result.output
    assert "tried " in result.output
    expected = {name: row for name, row in clean.items() if "shard-000003" not in name}
    assert dict(bucket.rows()) == expected
    assert len(bucket.published()) == 5


def test_a_listing_that_never_succeeds_is_not_an_empty_folder(
    bucket: Bucket, tmp_path: Path
) -> None:
    for kind_of_pattern in ("in/*.tar", "*/shard-*.tar", "**/*.tar"):
        override = f"input.shards=s3://{bucket.name}/{kind_of_pattern}"
        result = annotate(bucket, always("LIST", "", "internal_error"), tmp_path, override)
        assert isinstance(result.exception, UnavailableError)
        assert result.exception.exit_code == 1
        assert "We encountered an internal error" in str(result.exception)


def test_a_storage_that_is_down_while_the_output_is_read_is_no_wrong_request(
    bucket: Bucket, tmp_path: Path
) -> None:
    result = annotate(bucket, always("LIST", f"/{bucket.name}", "slow_down"), tmp_path)
    assert isinstance(result.exception, UnavailableError)
    # What asking again does not change is.
    gone = f"input.shards=s3://{bucket.name}-gone/in/*.tar"
    result = annotate(bucket, lambda kind, path: None, tmp_path, gone)
    assert isinstance(result.exception, RequestError)
    assert result.exception.exit_code == 2


def test_what_asking_again_does_not_change_is_asked_once(bucket: Bucket) -> None:
    proxy = FaultyProxy(bucket.server, lambda kind, path: None)
    with proxy.running() as endpoint:
        config = bucket.config(quick(endpoint), f"input.shards=s3://{bucket.name}/in/none.tar")
        with pytest.raises(RequestError, match=r"none\.tar' does not exist"):
            run(config, QUIET)
    assert proxy.requests["HEAD"] == 1


def test_what_looks_at_an_output_works_on_a_bucket_with_the_environment_s_credentials(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    source = run(bucket.config(None, "output.store_maps=true"), QUIET).folder
    other = f"s3://{bucket.name}/other"
    first = rebox_output(source, other, ["boxes.threshold=0.7"])
    assert (first.published, first.failures) == (6, {})
    assert rebox_output(source, other, ["boxes.threshold=0.7"]).done_before == 6
    assert verify(other, against_input=True).ok

    gallery = collect(other)
    assert gallery.distributions.statuses == {"ok": 12}
    assert len(gallery.items) == 12
    assert all(item.thumbnail for item in gallery.items)
    assert gallery.changed_shards == []

    report, sheet = compare(open_recipe(source), open_recipe(other), 2)
    assert (report.shards.both, report.rows.both) == (6, 12)
    assert [change.problem for change in report.largest] == [None, None]
    assert sheet is not None
