"""Whether a shard's pictures are those that people have reviewed, by the bytes of their files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cambox.console import Advance, one_line
from cambox.errors import RequestError, ShardError
from cambox.output.known_file import files_in
from cambox.output.publish import file_name
from cambox.output.reviewed import Options, ReviewedRow, keep_reviewed, read_reviewed
from cambox.sources.samples import ImageRule, most_in_a_sample, read_samples
from cambox.sources.shards import Shard
from cambox.sources.states import state_of


@dataclass(frozen=True)
class Rechecked:
    """What checking reviewed rows found.

    Attributes:
        same: rows whose picture is in the shard's new state as it was.
        other: rows whose picture is another one now, or gone.
        failures: shards that could not be checked, and why.
    """

    same: int
    other: int
    failures: Mapping[str, str]

    def lines(self) -> list[str]:
        """For people; none where there was nothing to check."""
        if not (self.same or self.other or self.failures):
            return []
        changed = f", {self.other} of pictures that have changed since" if self.other else ""
        return [
            f"reviewed rows in shards that have changed: {self.same} stay{changed}",
            *(f"not checked: {uri}: {why}" for uri, why in self.failures.items()),
        ]


def picture_digests(
    shard: Shard, keys: Iterable[str], rule: ImageRule, storage_options: Options = None
) -> dict[str, str | None]:
    """The SHA-256 of the image's file of some samples; None where there is no such image.

    The shard is read no further than the last of them.

    Raises:
        ShardError: it is damaged before that.
        OSError: the storage failed.
    """
    missing = set(keys)
    digests: dict[str, str | None] = dict.fromkeys(sorted(missing))
    bound = most_in_a_sample(shard)
    for sample in read_samples(shard, storage_options, max_sample_bytes=bound, rule=rule):
        if sample.key in missing:
            missing.remove(sample.key)
            if sample.image is not None:
                digests[sample.key] = hashlib.sha256(sample.members[sample.image]).hexdigest()
        if not missing:
            break
    return digests


def recheck(
    folder_uri: str,
    rule: ImageRule,
    storage_options: Options = None,
    shard_options: Options = None,
    on_shard: Advance | None = None,
) -> Rechecked:
    """Look at the pictures of reviewed rows again, in states of their shards that are not known.

    Asks for the footers of shards with reviewed rows alone, and reads only shards that have changed
    since.

    Args:
        folder_uri: of a recipe's folder, whose files say in which state the shards count.
        rule: of the recipe.
        storage_options, shard_options: of the output and of the shards.

    Raises:
        RequestError: the reviewed rows are damaged.
        OSError: the output cannot be read or written.
    """
    root = folder_uri.rstrip("/").rpartition("/")[0]
    of_shard: dict[str, list[ReviewedRow]] = defaultdict(list)
    for row in read_reviewed(root, storage_options):
        of_shard[row.shard].append(row)
    files = files_in(folder_uri, storage_options, [file_name(uri) for uri in sorted(of_shard)])
    unknown: dict[Shard, set[str]] = {}
    for file in files.values():
        if file is not None:
            rows = of_shard[file.shard.uri]
            keys = {row.key for row in rows if not row.knows(file.shard.fingerprint)}
            if keys:
                unknown[file.shard] = keys
    found: dict[tuple[str, str], tuple[str, str | None]] = {}
    failures = {}
    for shard, keys in unknown.items():
        try:
            if state_of(shard, shard_options) != "same":
                raise ShardError("it has changed once more; run cambox annotate again")
            digests = picture_digests(shard, keys, rule, shard_options)
        except (OSError, ShardError, RequestError) as error:
            failures[shard.uri] = one_line(error)
        else:
            for key, digest in digests.items():
                found[shard.uri, key] = shard.fingerprint, digest
        if on_shard is not None:
            on_shard(len(unknown))

    def checked(row: ReviewedRow) -> ReviewedRow:
        fingerprint, digest = found.get((row.shard, row.key), (None, None))
        if fingerprint is None or row.knows(fingerprint):
            return row
        return row.seen_in(fingerprint, same=digest == row.sha256)

    if found:
        keep_reviewed(root, lambda there: map(checked, there), storage_options)
    rows = [row for uri in {uri for uri, _ in found} for row in of_shard[uri]]
    pairs = [(row, found[row.shard, row.key]) for row in rows if (row.shard, row.key) in found]
    same = sum(row.sha256 == digest for row, (_, digest) in pairs)
    return Rechecked(same, len(pairs) - same, failures)
