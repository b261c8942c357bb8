"""What becomes of a shard, as whoever hands it out hears of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from cambox.signs import Signs
from cambox.sources.shards import Shard
from cambox.threads import Stage


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard.

    Attributes:
        uri: of the published file.
        statuses: rows by status.
        objects: boxes written.
        no_box: maps without a box, by reason.
        seconds: from opening the shard to the published file.
        stage_seconds: by stage; stages overlap, and threads add up.
        halved_to: images per forward pass after memory ran out in this shard; None if it did not.
        signs: whether its rows look as if they were meant.
        several_images: rows whose sample has images that no row is of.
        example: what the first of them says.
        retried: where only some rows were made again, their status before and now; those whose
            status is another are written, and are what ``objects`` counts.
    """

    shard: Shard
    uri: str
    statuses: Counter[str]
    objects: int
    no_box: Counter[str]
    seconds: float
    stage_seconds: Mapping[Stage, float]
    halved_to: int | None
    signs: Signs = field(default_factory=Signs)
    several_images: int = 0
    example: str = ""
    retried: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def samples(self) -> int:
        """Rows written, of every status."""
        return self.statuses.total()


@dataclass(frozen=True)
class Progress:
    """How far a worker is in its shard: bytes read and samples annotated since the last time."""

    bytes_read: int = 0
    samples: int = 0
