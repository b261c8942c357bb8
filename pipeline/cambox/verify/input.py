"""Whether a file's rows are the samples of the shard that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cambox.errors import RequestError, ShardError
from cambox.sources.listing import describe
from cambox.sources.retry import with_retries
from cambox.sources.samples import read_samples
from cambox.sources.shards import Shard
from cambox.sources.storage import fingerprint, locate, storage_failures
from cambox.verify.findings import Check, Findings


@dataclass(frozen=True)
class InputRule:
    """How to read the shards again."""

    storage_options: Mapping[str, Any] | None


def check_against_input(
    shard: Shard, keys: Sequence[str], rule: InputRule, findings: Findings
) -> None:
    """Whether the shard is as the footer says, and the rows are its samples, all and in order.

    Args:
        shard: as the footer describes it.
        keys: of the rows, in order.
    """
    try:
        with storage_failures(shard.uri):
            (info,) = describe([locate(shard.uri, rule.storage_options)], lists=False)
        if info is None or info["type"] != "file":
            findings.add(
                Check.input_gone,
                f"{shard.uri} is not there; restore it, or delete this file if it was retired",
            )
            return
        present = Shard(shard.uri, int(info.get("size") or 0), fingerprint(info))
        if present != shard:
            findings.add(
                Check.input_changed,
                f"{shard.uri} was {shard.fingerprint} and is {present.fingerprint}; run cambox "
                "annotate again",
            )
        _samples(present, keys, rule, findings)
    except (ShardError, RequestError, OSError) as error:
        findings.add(Check.input_unreadable, str(error))


def _samples(shard: Shard, keys: Sequence[str], rule: InputRule, findings: Findings) -> None:
    present = with_retries(
        shard.uri, lambda: [sample.key for sample in read_samples(shard, rule.storage_options)]
    )
    for index, (key, row_key) in enumerate(zip(present, keys, strict=False)):
        if key != row_key:
            findings.add(
                Check.input_samples,
                f"sample {index} of {shard.uri} is {key!r}, the row's key {row_key!r}",
            )
    if len(present) != len(keys):
        findings.add(
            Check.input_samples,
            f"{shard.uri} has {len(present)} samples, the file {len(keys)} rows",
        )
