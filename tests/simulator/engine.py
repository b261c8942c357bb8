"""In place of the networks: shards that are lists of keys, and a worker that makes rows of them."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

import pyarrow as pa

import cambox.output.publish
from cambox.boxes import Boxes
from cambox.config import Config
from cambox.engines.worklist import Observer, Outcome, WorkList
from cambox.errors import ShardError
from cambox.output.footer import Recipe
from cambox.output.rows import Row, table
from cambox.shard_report import ShardReport
from cambox.sources.shards import Shard
from cambox.sources.states import state_of
from cambox.sources.storage import locate
from cambox.threads import STAGES

from .clock import Clock

RECIPE = Recipe.of(
    {name: {} for name in ("input", "model", "cam", "boxes", "output")} | {"boxes": {"k": 1}},
    ("cat",),
)
ROOT = "s3://simulated"
SHARD_SECONDS = 120.0


@cache
def keys_of(content: bytes) -> tuple[str, ...]:
    """The samples of a simulated shard, which is a list of them."""
    return tuple(str(key) for key in json.loads(content))


@cache
def rows_of(uri: str, content: bytes) -> pa.Table:
    """The rows of a shard."""
    rows = [
        Row(key, uri, number, "unreadable", "zero bytes", None, None, None)
        for number, key in enumerate(keys_of(content))
    ]
    return table(rows, Boxes.of([]), RECIPE.class_names, with_maps=False)


class Engine:
    """Shards are read, and their rows published, one after another."""

    recipe = RECIPE
    # It makes nothing of pictures.
    canary = None

    def __init__(self, config: Config, clock: Clock, deadly: float) -> None:
        self.config, self.clock, self.deadly = config, clock, deadly

    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Hand out the shards until each has its outcome."""
        work = WorkList(shards, self.config.engine.max_attempts, observer)
        while work.unfinished:
            shard = work.next()
            assert shard is not None
            if self.clock.chance.random() < self.deadly:
                work.lost([shard], "the worker died")
                continue
            self.clock.reading += 1
            try:
                work.finish(self._published(shard))
            except Exception as error:  # noqa: BLE001  as the engines do
                work.failed(shard, error)
            finally:
                self.clock.reading -= 1
        return work.outcomes

    def _published(self, shard: Shard) -> ShardReport:
        filesystem, path = locate(shard.uri)
        content = filesystem.cat_file(path)
        self.clock.sleep(self.clock.chance.random() * SHARD_SECONDS)
        if state_of(shard) != "same":
            raise ShardError("it has changed while it was read")
        rows = rows_of(shard.uri, content)
        uri = cambox.output.publish.publish(
            rows, shard, RECIPE, self.config.output, lambda: state_of(shard) == "same"
        )
        return ShardReport(
            shard, uri, Counter(), 0, Counter(), 0.0, dict.fromkeys(STAGES, 0.0), None
        )
