"""Two at once on s3://, and late ones, on stores that compare, pass over or refuse conditions."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from cambox import planned
from cambox.config import Config
from cambox.engines.local import LocalEngine
from cambox.errors import ShardError, UnavailableError
from cambox.output import exchange
from cambox.output.exchange import look, put, read_seen
from cambox.output.ledger import plan
from cambox.output.manifest import chain, newest_manifest
from cambox.output.publish import file_name, publish, recipe_uri
from cambox.output.reading import open_recipe
from cambox.run import run
from cambox.sources.shards import Shard, find_shards
from cambox.sources.states import state_of
from cambox.verify.verify import verify
from fault_runs import with_output
from faulty_s3 import Conditions, FaultyProxy
from s3_bucket import Bucket, quick

QUIET = Console(file=io.StringIO())
CHEAP = ("cam.top_k=1", "boxes.max_boxes=1")


@contextmanager
def store(bucket: Bucket, conditions: Conditions) -> Iterator[tuple[FaultyProxy, Config]]:
    """The bucket's first two shards, and its output, through a proxy."""
    shards = f"input.shards=s3://{bucket.name}/in/shard-00000[01].tar"
    proxy = FaultyProxy(bucket.server, lambda kind, path: None, conditions)
    with proxy.running() as endpoint:
        yield proxy, bucket.config(quick(endpoint), *CHEAP, shards)


class Driver:
    """A driver with a model of its own, for many outputs."""

    def __init__(self, config: Config) -> None:
        self.engine = LocalEngine(config)
        self.errors: list[Exception] = []

    def work(self, config: Config, planned_together: threading.Barrier) -> None:
        self.engine.config = config
        shards = find_shards(config.input.shards, config.input.storage_options)
        work = plan(shards, self.engine.recipe, config.output)
        planned_together.wait()
        try:
            planned.annotate_planned(config, self.engine, work, QUIET)
        except Exception as error:  # noqa: BLE001  told by the test, in its own thread
            self.errors.append(error)


@pytest.mark.parametrize(
    ("conditions", "rounds"),
    [
        pytest.param("compared", 10, marks=pytest.mark.slow),
        ("compared", 1),
        ("ignored", 1),
        ("refused", 1),
    ],
)
def test_two_drivers_at_once_end_as_one(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, conditions: Conditions, rounds: int
) -> None:
    """Both without a lease, so that each publishes every shard, and both end at the same time."""
    monkeypatch.setattr(planned, "held", lambda *_: nullcontext())
    with store(bucket, conditions) as (proxy, config):
        clean = run(with_output(config, f"s3://{bucket.name}/clean"), QUIET)
        expected = dict(bucket.rows("clean/"))
        drivers = [Driver(config) for _ in range(2)]
        for round_ in range(rounds):
            one = with_output(config, f"s3://{bucket.name}/out-{round_}")
            barrier = threading.Barrier(2)
            threads = [threading.Thread(target=who.work, args=(one, barrier)) for who in drivers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rows = bucket.rows(f"out-{round_}/{clean.recipe.folder}/")
            assert (len(rows), dict(rows)) == (4, expected)
            assert run(one, QUIET).reports == ()
            assert verify(one.output.uri, one.output.storage_options).ok
            folder = recipe_uri(one.output, clean.recipe)
            _, newest = newest_manifest(folder, one.output.storage_options)
            manifests = [found for _, found in chain(folder, newest, one.output.storage_options)]
            assert len(manifests[0].files) == 2
        assert [driver.errors for driver in drivers] == [[], []]
        assert proxy.conditional >= 2 * rounds


@pytest.mark.parametrize("conditions", get_args(Conditions))
def test_a_late_publisher_leaves_the_newer_file_where_it_is(
    bucket: Bucket, six: Path, conditions: Conditions
) -> None:
    with store(bucket, conditions) as (_, config):
        options = config.input.storage_options
        before = find_shards(config.input.shards, options)[1]
        old = run(config, QUIET)
        rows = open_recipe(old.folder, options).files[1]
        old_rows = rows.table(["key"])
        other = (six / "shard-000005.tar").read_bytes()
        bucket.client.put_object(Bucket=bucket.name, Key="in/shard-000001.tar", Body=other)
        newer = run(config, QUIET)
        assert [report.shard.uri for report in newer.reports] == [before.uri]
        published = bucket.published()

        def publish_late(shard: Shard) -> str:
            return publish(
                old_rows,
                shard,
                old.recipe,
                config.output,
                lambda: state_of(shard, options) == "same",
            )

        with pytest.raises(ShardError, match="it has changed since it was read"):
            publish_late(before)
        assert bucket.published() == published
        # What was there before the newer file is still read by who began then.
        assert rows.table(["key"])["key"] == old_rows["key"]
        again = open_recipe(newer.folder, options).files[1]
        assert again.name == file_name(before.uri)
        assert again.table(["key"])["key"] != old_rows["key"]


def test_the_store_itself_says_who_was_first_also_for_a_large_file(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writes after the look just before, which is therefore played."""
    with store(bucket, "compared") as (proxy, config):
        options = config.output.storage_options
        for size in (10, 101 << 20):
            uri = f"s3://{bucket.name}/file-{size}"
            nothing = look(uri, options)
            bucket.client.put_object(Bucket=bucket.name, Key=f"file-{size}", Body=b"one")
            seen = look(uri, options)
            bucket.client.put_object(Bucket=bucket.name, Key=f"file-{size}", Body=b"theirs")
            for played in (nothing, seen):
                with monkeypatch.context() as patch:
                    patch.setattr(exchange, "_is_still", lambda *_: True)
                    assert not put(played, bytes(size), options)
                assert read_seen(uri, options)[1] == b"theirs"
        assert proxy.conditional == 4


def test_a_second_night_ends_with_who_is_at_work(bucket: Bucket) -> None:
    with store(bucket, "compared") as (_, config):
        engine = LocalEngine(config)
        folder = recipe_uri(config.output, engine.recipe)
        with planned.held(folder, config.output.storage_options):
            with pytest.raises(UnavailableError, match="another run of this recipe is at work"):
                run(config, QUIET)
            assert bucket.published() == {}
        assert run(config, QUIET).complete
        assert not [key for key in bucket.objects("out/_runs/") if key.endswith("lease.json")]
