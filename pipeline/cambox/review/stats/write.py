"""Statistics for a person: lines on the terminal, and a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cambox.console import counted
from cambox.errors import some_of
from cambox.review.stats.report import Since, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES_NAMED = 20
CHANGES_NAMED = 10
CLASSES_DRAWN = 40


def lines(found: Statistics) -> Iterator[str]:
    """All figures, the whole before the parts."""
    statuses = ", ".join(f"{name} {rows}" for name, rows in found.statuses.items())
    yield found.output
    yield f"{counted(found.rows, 'row')} in {counted(found.files, 'file')}: {statuses or 'none'}"
    yield (
        f"{counted(found.boxes, 'box')} in {found.images - found.without_boxes} of "
        f"{found.images} annotated images; {found.without_boxes} without a box"
        f"{_share(found.without_boxes, found.images)}"
    )
    if found.reviewed:
        yield f"reviewed by people: {counted(found.reviewed, 'row')}"
    yield f"share of the image: {_listed(found.shares, found.boxes)}"
    yield f"size in pixels, as COCO counts: {_listed(found.sizes, found.boxes)}"
    balance = found.balance
    none = balance.without_a_box
    yield (
        f"classes: {balance.classes}, {len(none)} without a box"
        + (f" ({some_of(none, 5)})" if none else "")
        + (
            f"; {balance.largest} has {balance.largest_share:.1%} of the boxes"
            if balance.largest_share is not None
            else ""
        )
        + (f"; evenness {balance.evenness:.2f}" if balance.evenness is not None else "")
    )
    for one in found.classes[:CLASSES_NAMED]:
        sizes = ", ".join(f"{name} {boxes}" for name, boxes in one.sizes.items())
        boxes, images = counted(one.boxes, "box"), counted(one.images, "image")
        yield f"  {one.class_name}: {boxes} in {images}; {sizes}"
    if (more := len(found.classes) - CLASSES_NAMED) > 0:
        yield f"  and {more} classes more; --json has all"
    yield from _since(found.since)


def _since(since: Since | None) -> Iterator[str]:
    if since is None:
        yield "no manifest of a run before the last one, so nothing to compare with"
        return
    yield (
        f"since the run of {since.at:%Y-%m-%d %H:%M} UTC: {counted(since.new, 'file')} new, "
        f"{since.changed} changed, {since.gone} gone; rows {since.rows:+d}, boxes {since.boxes:+d}"
    )
    if since.not_kept:
        yield f"  {since.not_kept} earlier files were removed; only the rows count those"
    if since.statuses:
        yield "  " + ", ".join(f"{name} {rows:+d}" for name, rows in since.statuses.items())
    for one in since.classes[:CHANGES_NAMED]:
        yield f"  {one.class_name}: {one.now - one.before:+d} boxes"
    if (more := len(since.classes) - CHANGES_NAMED) > 0:
        yield f"  and {more} classes more"


def _listed(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(f"{name} {count}{_share(count, total)}" for name, count in counts.items())


def _share(count: int, total: int) -> str:
    return f" ({count / total:.1%})" if total else ""


def draw_statistics(found: Statistics) -> bytes:
    """A PNG: rows by status, boxes by size and by class, and what changed."""
    # Late: the text needs none of it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = found.classes[:CLASSES_DRAWN]
    figure = Figure(figsize=(14, max(6.0, 1.5 + 0.2 * len(shown))), layout="constrained")
    grid = figure.add_gridspec(3, 2)
    _bars(figure.add_subplot(grid[0, 0]), f"{found.rows} rows", found.statuses)
    _bars(figure.add_subplot(grid[1, 0]), "boxes by share of the image", found.shares)
    _bars(figure.add_subplot(grid[2, 0]), "boxes by size in pixels (COCO)", found.sizes)
    left_out = len(found.classes) - len(shown)
    title = f"boxes by class{f', the {len(shown)} largest' if left_out else ''}"
    since = found.since
    changed = since is not None and bool(since.classes)
    by_class = {one.class_name: one.boxes for one in shown}
    _bars(figure.add_subplot(grid[: 2 if changed else 3, 1]), title, by_class)
    if since is not None and changed:
        changes = {one.class_name: one.now - one.before for one in since.classes[:CHANGES_NAMED]}
        title = f"boxes more than at {since.at:%Y-%m-%d %H:%M} UTC"
        _bars(figure.add_subplot(grid[2, 1]), title, changes)
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _bars(axes: Axes, title: str, counts: Mapping[str, int]) -> None:
    """Bars from left to right with their numbers; names are other people's, and no formulas."""
    names = [name if len(name) <= 30 else f"{name[:29]}…" for name in counts]
    drawn = axes.barh(range(len(counts)), list(counts.values()))
    axes.set_yticks(range(len(counts)), names, parse_math=False)
    axes.bar_label(drawn, padding=3)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
