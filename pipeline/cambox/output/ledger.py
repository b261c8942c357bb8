"""The output is its own ledger: what is done is read from the footers of what is published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from packaging.version import Version

from cambox.config import OutputSettings
from cambox.console import counted
from cambox.output.commit import Found, find
from cambox.output.footer import Recipe
from cambox.output.known_file import FOOTERS_AT_ONCE
from cambox.output.publish import file_name
from cambox.output.published_file import PublishedFile
from cambox.sources.shards import Shard


@dataclass(frozen=True)
class Redo:
    """Which files are to be made anew although shard and recipe are the same.

    Attributes:
        older_than: what an older version of cambox made; None: a version alone redoes nothing.
        canaries: what was made by workers that made this of the built-in pictures.
        statuses: files that have rows of these; only those rows are made again, and what is new or
            changed is left to a run that makes whole files.
    """

    older_than: Version | None = None
    canaries: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()

    def asks_for(self, file: PublishedFile) -> bool:
        """Whether a file is one of them, by its footer alone."""
        old = self.older_than and Version(file.versions["cambox"]) < self.older_than
        return bool(old) or file.canary in self.canaries

    def asks_for_rows_of(self, files: Mapping[str, PublishedFile]) -> set[str]:
        """The names of the files that are some of them by a row's status.

        Raises:
            RequestError: a file is damaged, or cannot be read.
        """
        wanted = pa.array(sorted(self.statuses), pa.string())

        def has_some(file: PublishedFile) -> bool:
            batches = file.batches(["status"])
            return any(pc.any(pc.is_in(batch["status"], wanted)).as_py() for batch in batches)

        if not self.statuses:
            return set()
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            return {
                name
                for name, has in zip(files, pool.map(has_some, files.values()), strict=True)
                if has
            }


NOTHING_ANEW = Redo()


@dataclass(frozen=True)
class Plan:
    """What a run has to do, shard by shard, in the order of the input.

    Attributes:
        new: nothing is published for them.
        changed: published from another state of the shard, or the file is damaged or of another
            recipe.
        outdated: published by a version of cambox, or of a library, whose work is to be done again.
        done: published from this shard and this recipe.
        orphaned: URIs of shards that are published but no longer in the input; their files stay.
        versions: libraries that published files were made with, and how many files.
        found: what this was read off; None of a plan that was made otherwise.
        redo: what is outdated.
    """

    new: tuple[Shard, ...]
    changed: tuple[Shard, ...]
    outdated: tuple[Shard, ...]
    done: tuple[Shard, ...]
    orphaned: tuple[str, ...]
    versions: Mapping[tuple[str, str], int]
    found: Found | None = None
    redo: Redo = NOTHING_ANEW

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All of the input."""
        return self.new + self.changed + self.outdated + self.done

    @property
    def to_do(self) -> tuple[Shard, ...]:
        """What is not done, the largest first, so that no long one ends the run alone."""
        anew = () if self.redo.statuses else self.new + self.changed
        work = anew + self.outdated
        return tuple(sorted(work, key=lambda shard: -shard.size))

    @property
    def mixed_versions(self) -> tuple[str, ...]:
        """Of each library that files were made with several versions of: name, version, files."""
        libraries = Counter(library for library, _ in self.versions)
        return tuple(
            f"{library} {version} ({counted(files, 'file')})"
            for (library, version), files in sorted(self.versions.items())
            if libraries[library] > 1
        )

    def __str__(self) -> str:
        shards = len(self.shards)
        why = "to retry" if self.redo.statuses else "outdated"
        outdated = f"{len(self.outdated)} {why}, " if self.outdated else ""
        orphaned = f", {len(self.orphaned)} orphaned" if self.orphaned else ""
        return (
            f"{counted(shards, 'shard')}: {len(self.new)} new, {len(self.changed)} changed, "
            f"{outdated}{len(self.done)} done{orphaned}"
        )


def plan(
    shards: Sequence[Shard],
    recipe: Recipe,
    output: OutputSettings,
    redo: Redo = NOTHING_ANEW,
) -> Plan:
    """Compare the input with what is published under the recipe.

    Raises:
        OSError: the output cannot be listed, or a footer cannot be read.
    """
    found = find(output, recipe)
    published = found.files
    expected = {file_name(shard.uri): shard for shard in shards}
    groups: dict[str, list[Shard]] = {"new": [], "changed": [], "outdated": [], "done": []}
    whole = {name: file for name, file in sorted(published.items()) if file is not None}
    by_rows = redo.asks_for_rows_of({name: whole[name] for name in expected if name in whole})
    for name, shard in expected.items():
        file = published.get(name)
        if name not in published:
            state = "new"
        elif file is None or file.shard != shard or file.recipe_digest != recipe.digest:
            state = "changed"
        elif redo.asks_for(file) or name in by_rows:
            state = "outdated"
        else:
            state = "done"
        groups[state].append(shard)
    return Plan(
        **{state: tuple(of_state) for state, of_state in groups.items()},
        orphaned=tuple(file.shard.uri for name, file in whole.items() if name not in expected),
        versions=Counter(pair for file in whole.values() for pair in file.versions.items()),
        found=found,
        redo=redo,
    )
