"""From an output, and the manifest before its own, to figures; only a few columns are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice

from cambox.console import Advance
from cambox.errors import RequestError
from cambox.output.manifest import Manifest, ManifestFile, chain
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.output.snapshot import named_files
from cambox.review.gallery.distributions import SIZES
from cambox.review.stats.counts import COLUMNS, PIXEL_SIZES, Counts
from cambox.review.stats.report import (
    ClassChange,
    Since,
    Statistics,
    balance_of,
    class_figures,
    named,
)


def statistics(output: str, on_file: Advance | None = None) -> Statistics:
    """Count all rows of an output, and what is new since the run before its last one.

    Args:
        output: URI of a recipe's folder, or of an output (see ``recipe_folder``).
        on_file: called with the number of files, after each one that was counted.

    Raises:
        RequestError: the output cannot be read.
    """
    recipe = open_recipe(output)
    names = recipe.footer.classes
    now = Counts(len(names))
    night = _Night.of(recipe)
    touched = set() if night is None else night.touched
    for file in recipe.files:
        for batch in file.batches(COLUMNS):
            now.add(batch)
            if night is not None and file.name in touched:
                night.after.add(batch)
        if on_file is not None:
            on_file(len(recipe.files))
    boxes = now.class_boxes
    return Statistics(
        output=recipe.uri,
        recipe=recipe.footer.recipe_digest,
        manifest=recipe.folder.manifest,
        files=len(recipe.files),
        rows=now.rows,
        statuses=dict(now.statuses.most_common()),
        images=now.statuses["ok"],
        without_boxes=now.without_boxes,
        reviewed=now.reviewed,
        boxes=int(boxes.sum()),
        sizes=named(PIXEL_SIZES, now.by_pixels.sum(axis=0)),
        shares=named(SIZES, now.by_share.sum(axis=0)),
        balance=balance_of(boxes, names),
        classes=class_figures(now, names),
        since=None if night is None else night.since(names),
    )


@dataclass(frozen=True)
class _Night:
    """The last manifest beside the one before it.

    Attributes:
        digest: of the one before.
        old, new: the files of each, by name.
        not_kept: names of earlier files that are not there any more.
        before: rows of earlier files that are not in the new ones.
        after: rows of new files that were not in the earlier ones; for the caller to fill.
    """

    digest: str
    manifest: Manifest
    old: Mapping[str, ManifestFile]
    new: Mapping[str, ManifestFile]
    not_kept: Collection[str]
    before: Counts
    after: Counts

    @classmethod
    def of(cls, recipe: PublishedRecipe) -> _Night | None:
        folder, class_count = recipe.folder, len(recipe.footer.classes)
        try:
            found = list(islice(chain(folder.uri, folder.manifest, folder.storage_options), 2))
        except OSError as error:
            raise RequestError(f"{folder.uri} cannot be read: {error}; check access") from error
        if len(found) < 2:
            return None
        (_, manifest), (digest, earlier) = found
        old, new = ({one.name: one for one in made.files} for made in (earlier, manifest))
        before = Counts(class_count)
        not_kept = set()
        for name in old:
            if name in new and new[name].sha256 == old[name].sha256:
                continue
            try:
                (file,), _ = named_files(folder.uri, [old[name]], folder.storage_options)
                batches = list(file.batches(COLUMNS))
            except RequestError:
                not_kept.add(name)
                continue
            for batch in batches:
                before.add(batch)
        return cls(digest, earlier, old, new, not_kept, before, Counts(class_count))

    @property
    def touched(self) -> set[str]:
        """Files whose rows count in ``after``."""
        return {
            name
            for name, file in self.new.items()
            if name not in self.not_kept
            and (name not in self.old or self.old[name].sha256 != file.sha256)
        }

    def since(self, names: tuple[str, ...]) -> Since:
        statuses = dict(self.after.statuses)
        for status, rows in self.before.statuses.items():
            statuses[status] = statuses.get(status, 0) - rows
        old, new = self.before.class_boxes, self.after.class_boxes
        change = new - old
        both = self.old.keys() & self.new.keys()
        return Since(
            manifest=self.digest,
            at=self.manifest.created_at,
            new=len(self.new.keys() - both),
            changed=sum(self.old[name].sha256 != self.new[name].sha256 for name in both),
            gone=len(self.old.keys() - both),
            not_kept=len(self.not_kept),
            rows=sum(file.rows for file in self.new.values())
            - sum(file.rows for file in self.old.values()),
            statuses={status: rows for status, rows in sorted(statuses.items()) if rows},
            boxes=int(change.sum()),
            classes=[
                ClassChange(class_name=names[at], before=int(old[at]), now=int(new[at]))
                for at in abs(change).argsort(kind="stable")[::-1].tolist()
                if change[at]
            ],
        )
