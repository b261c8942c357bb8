"""Bugs that were planted, to see that the simulator finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import cambox.nightly.night
from cambox.output.exchange import Seen
from cambox.output.latest import Latest, move_latest
from cambox.output.lease import Lease
from cambox.output.whole import publish_bytes
from cambox.planned import annotate_planned
from cambox.summary import RunSummary

from .checks import BrokenPromiseError
from .history import CONFIG, History
from .store import Store
from .world import at_full_speed

Plant = Callable[[], AbstractContextManager[Any]]


def found_after(plant: Plant, first: int = 0, most: int = 2000) -> tuple[int, str] | None:
    """How many histories it took until a promise was broken, and which; None: none of them did."""
    with at_full_speed():
        for seed in range(first, first + most):
            try:
                History(seed, plant).run()
            except BrokenPromiseError as error:
                return seed - first + 1, str(error)
    return None


@contextmanager
def unconditional_overwrite() -> Iterator[None]:
    """A file is written whatever is there."""

    def put(_: object, path: str, seen: Seen, data: bytes, options: Any) -> bool:
        publish_bytes(seen.uri, data, options)
        return True

    with patch("cambox.output.exchange._put_remotely", put):
        yield


@contextmanager
def latest_before_verify() -> Iterator[None]:
    """``latest`` moves when a run ends, and what it has done is looked at afterwards."""

    def annotated(*arguments: Any) -> RunSummary:
        summary = annotate_planned(*arguments)
        latest = Latest(
            recipe=summary.recipe.folder,
            uri=summary.folder,
            run="this",
            shards=1,
            rows=1,
            moved_at=cambox.nightly.night.datetime.now(UTC),  # type: ignore[attr-defined]
            manifest=summary.manifest,
        )
        move_latest(CONFIG.output, latest)
        return summary

    with patch("cambox.nightly.night.annotate_planned", annotated):
        yield


@contextmanager
def lost_reply_counts_as_published() -> Iterator[None]:
    """Whoever has no answer takes it for a yes."""
    real = Store.pipe_file

    def pipe_file(*arguments: Any, **more: Any) -> None:
        with suppress(TimeoutError):
            real(*arguments, **more)

    with patch.object(Store, "pipe_file", pipe_file):
        yield


@contextmanager
def lease_without_expiry() -> Iterator[None]:
    """A lease is over when its holder is known to be dead, and never else."""
    real = Lease.is_over

    def is_over(lease: Lease, now: datetime) -> bool:
        return real(lease, lease.since)

    with patch.object(Lease, "is_over", is_over):
        yield


BUGS: Mapping[str, Plant] = {
    "unconditional overwrite": unconditional_overwrite,
    "`latest` before verify": latest_before_verify,
    "a lost reply counts as published": lost_reply_counts_as_published,
    "a lease without expiry": lease_without_expiry,
}
