"""Whether shards are still those that were annotated, from what their store says of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeVar

from cambox.errors import ShardError
from cambox.sources.listing import Info, describe
from cambox.sources.retry import with_retries
from cambox.sources.shards import OF_CONTENT, Shard
from cambox.sources.storage import fingerprint, locate, storage_failures

ShardState = Literal["same", "changed", "gone"]
Answer = TypeVar("Answer")

# A stream that is cut half-way costs all that was read, so this is not done as often as a question
# is asked again; the drivers that can read from the middle do so themselves.
READINGS = 2
# So often a shard that is rewritten meanwhile is read in one attempt.
DESCRIPTIONS = 3
LOG = logging.getLogger(__name__)


def state_of(
    shard: Shard, storage_options: Mapping[str, Any] | None = None, moved: bool = False
) -> ShardState:
    """What became of one shard; see ``states_of``."""
    return states_of([shard], storage_options, moved)[0]


def states_of(
    shards: Sequence[Shard], storage_options: Mapping[str, Any] | None = None, moved: bool = False
) -> list[ShardState]:
    """Whether each shard is still the one that was annotated, from what its store says of it.

    Args:
        shards: as footers describe them.
        moved: they are copies, which have another time and ETag, and are known by their size.

    Raises:
        RequestError: a URI is of a kind that is not allowed, or its driver is not installed.
        OSError: the storage failed.
    """
    with storage_failures(shards[0].uri if len(shards) == 1 else "the shards"):
        places = [locate(uri, storage_options) for shard in shards for uri in shard.stored]
        infos = describe(places, lists=True)
        return [_state(shard, list(islice(infos, len(shard.stored))), moved) for shard in shards]


def as_it_is(shard: Shard, storage_options: Mapping[str, Any] | None = None) -> Shard:
    """A shard as its store describes it now; one that was rewritten has another fingerprint.

    A fingerprint of the content, which no store tells, stays as it is.

    Raises:
        FileNotFoundError: it, or a picture of a chunk, is gone.
        OSError: the storage failed.
    """
    with storage_failures(shard.uri):
        places = [locate(uri, storage_options) for uri in shard.stored]
        infos = [info for info in describe(places, lists=True) if info and info["type"] == "file"]
    if len(infos) < len(places):
        raise FileNotFoundError(f"{shard.uri}: gone, or a part of it, since it was read")
    size = sum(int(info.get("size") or 0) for info in infos)
    if shard.fingerprint.startswith(OF_CONTENT):
        return replace(shard, size=size)
    now = files_fingerprint(infos) if shard.files else fingerprint(infos[0])
    return replace(shard, size=size, fingerprint=now)


def read_unchanged(
    shard: Shard,
    storage_options: Mapping[str, Any] | None,
    reading: Callable[[Shard], tuple[Answer, str]],
) -> tuple[Shard, Answer]:
    """A shard as it is described after it was read as well as before, and what reading it gave.

    One that was rewritten since it was listed, or meanwhile, is read again: else what was read
    might be of the old samples and the new ones. So is one whose stream was cut.

    Args:
        reading: gives also the SHA-256 of the bytes; of a shard whose fingerprint the store tells
            it does not matter.

    Raises:
        ShardError: the shard is not whole.
        OSError: the storage failed, or the shard is rewritten again and again.
    """

    def described() -> Shard:
        return with_retries(shard.uri, lambda: as_it_is(shard, storage_options))

    for _ in range(DESCRIPTIONS):
        try:
            answer, content = with_retries(shard.uri, partial(reading, shard), READINGS)
        except (OSError, ShardError):
            now = described()
            if now == shard:
                raise
        else:
            now = described()
            if shard.fingerprint.startswith(OF_CONTENT):
                now = replace(now, fingerprint=f"{OF_CONTENT}{content}")
            if now == shard:
                return shard, answer
        LOG.warning("%s has changed since it was listed; it is read again", shard.uri)
        shard = now
    raise OSError(f"{shard.uri} was rewritten each time that it was read; run again later")


def _state(shard: Shard, infos: Sequence[Info | None], moved: bool) -> ShardState:
    present = [info for info in infos if info and info["type"] == "file"]
    if not present:
        return "gone"
    if len(present) < len(infos):
        return "changed"
    # A fingerprint of the content cannot be compared with what the store says of it.
    if moved or shard.fingerprint.startswith(OF_CONTENT):
        size = sum(int(info.get("size") or 0) for info in present)
        same = size == shard.size or 0 in (size, shard.size)
    elif shard.files:
        same = files_fingerprint(present) == shard.fingerprint
    else:
        same = fingerprint(present[0]) == shard.fingerprint
    return "same" if same else "changed"


def files_fingerprint(infos: Iterable[Info]) -> str:
    """The fingerprint of a chunk, from what the store says of its files, in order."""
    states = "\n".join(map(fingerprint, infos))
    return f"files={hashlib.sha256(states.encode()).hexdigest()}"
