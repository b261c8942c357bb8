"""What the driver of a cluster knows of one of its actors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cambox.annotator import Progress
from cambox.sources.shards import Shard


@dataclass(eq=False)
class Actor:
    """The driver's view of an actor; calls are references to what they will give.

    Attributes:
        call: to describe itself, or to begin a shard; None while it does neither.
        reading: that shard.
        reports: of shards that were read to their end.
        asked: an unanswered question for its progress.
        seen: what it had read and annotated when it last said so.
        heard: when that was.
        moved: when its oldest shard last did.
    """

    handle: Any
    call: Any = None
    reading: Shard | None = None
    reports: dict[Any, Shard] = field(default_factory=dict)
    asked: Any = None
    seen: Progress = field(default_factory=Progress)
    heard: float = 0.0
    moved: float = 0.0

    @property
    def starting(self) -> bool:
        """Whether it has not described itself yet."""
        return self.call is not None and self.reading is None

    @property
    def shards(self) -> list[Shard]:
        """All that it has in work."""
        return [*self.reports.values(), *([] if self.reading is None else [self.reading])]

    @property
    def calls(self) -> list[Any]:
        """What it has not answered yet; reports first, as they may be there although it died."""
        return [*self.reports, *([] if self.call is None else [self.call])]

    def end(self, call: Any) -> Shard:
        """Forget a call that was answered, and give its shard."""
        if call is not self.call:
            return self.reports.pop(call)
        shard, self.call, self.reading = self.reading, None, None
        assert shard is not None
        return shard
