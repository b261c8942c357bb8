"""From s3:// to s3://, against a real S3 server on loopback, healthy and failing."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import yaml
from moto.server import ThreadedMotoServer
from rich.console import Console
from typer.testing import CliRunner, Result

from cambox.cli import app
from cambox.config import Config
from cambox.errors import RequestError
from cambox.nightly.night import run_night
from cambox.output.latest import latest_folder
from cambox.output.reading import open_recipe
from cambox.output.whole import publish_bytes
from cambox.rebox.rebox import rebox_output
from cambox.review.diff.compare import compare
from cambox.review.gallery.collect import collect
from cambox.run import prepare, run
from cambox.sources.pack import pack
from cambox.summary import RunSummary
from cambox.verify.verify import verify
from conftest import ConfigMaker
from faulty_s3 import FAULTS, Choose, Fault, FaultyProxy, Kind, at_random

NUMBERS = count()
QUIET = Console(file=io.StringIO())
Rows = dict[str, dict[str, Any]]


def options(endpoint: str, **more: object) -> dict[str, Any]:
    """As a person writes them into a configuration."""
    client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    return {"key": "test", "secret": "test", "client_kwargs": client, **more}


@dataclass
class Bucket:
    """A bucket with six shards below ``in/``, on a server that tests may put faults before."""

    name: str
    endpoint: str
    server: tuple[str, int]
    make_config: ConfigMaker
    client: Any = field(repr=False)

    def config(self, storage: dict[str, Any] | None = None, *overrides: str) -> Config:
        given = yaml.safe_dump(
            storage or options(self.endpoint), default_flow_style=True, width=999
        )
        return self.make_config(
            f"input.shards=s3://{self.name}/in/*.tar",
            f"input.storage_options={given}",
            f"output.uri=s3://{self.name}/out",
            f"output.storage_options={given}",
            *overrides,
        )

    def objects(self, prefix: str) -> dict[str, tuple[str, Any]]:
        """ETag and time of each object, by key."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in listed}

    def published(self, prefix: str = "out/") -> dict[str, tuple[str, Any]]:
        """Of these, the files of shards."""
        objects = self.objects(prefix)
        return {key: what for key, what in objects.items() if key.endswith(".parquet")}

    def rows(self, prefix: str = "out/") -> list[tuple[str, dict[str, Any]]]:
        """What is published below a prefix."""
        bodies = [
            self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            for key in self.published(prefix)
        ]
        tables = [pq.read_table(io.BytesIO(body)) for body in bodies]
        return named(row for table in tables for row in table.to_pylist())


def named(rows: Iterable[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The rows without the shard's place, each after its name and the sample's key."""
    return [(f"{Path(row.pop('shard')).name} {row['key']}", row) for row in rows]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    # moto logs every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto.get_host_and_port()
    moto.stop()


@pytest.fixture(scope="module")
def six(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures in six shards of two."""
    folder = tmp_path_factory.mktemp("six")
    pack(pictures, folder, pictures / "labels.csv", samples_per_shard=2)
    return folder


@pytest.fixture
def bucket(server: tuple[str, int], six: Path, make_config: ConfigMaker) -> Bucket:
    endpoint = "http://{}:{}".format(*server)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    name = f"bucket-{next(NUMBERS)}"
    client.create_bucket(Bucket=name)
    for path in six.iterdir():
        client.put_object(Bucket=name, Key=f"in/{path.name}", Body=path.read_bytes())
    return Bucket(name, endpoint, server, make_config, client)


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


def quick(endpoint: str) -> dict[str, Any]:
    """Without botocore's own attempts and their pauses: every 500 is for us to deal with."""
    return options(endpoint, config_kwargs={"retries": {"total_max_attempts": 1}})


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
        assert isinstance(result.exception, RequestError)
        assert "We encountered an internal error" in str(result.exception)


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
