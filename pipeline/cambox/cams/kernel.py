"""From score maps to the extents of their components, compiled: no Python between the cells.

Everything is in this file because numba's cache does not see when a function of another file
changes. The interpreter's lock is free while it runs, so threads find boxes side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])
Taps = tuple[np.ndarray, np.ndarray]

# What became of a map.
FOUND, NON_FINITE, CONSTANT = range(3)
# A map that varies less than this share of its largest value holds rounding noise, no object.
CONSTANT_TOLERANCE = 1e-5
# Values in the sample that tells between which bounds a percentile lies, and the margin to both
# sides, as a share of the sample; the values of a map are smooth, so it rarely misses.
SAMPLE_SIZE, MARGIN = 1024, 1 / 64
HALVINGS = 14
# Cuts above the first one, evenly apart up to the maximum, that may tell parts of a region apart.
HIGHER_CUTS = 4
# Eight cells of a mask that are all set.
_ALL_SET = np.uint64(0x0101010101010101)


def compiled(function: Function) -> Function:
    """Compile at the first call, and keep the result on disk where there is a place for it."""
    try:
        made = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Neither beside the source nor in the user's cache, as in a read-only container.
        made = numba.njit(nogil=True)(function)
    return cast(Function, made)


@compiled
def find_components(
    maps: np.ndarray,
    row_taps: Taps,
    column_taps: Taps,
    thresholds: np.ndarray,
    rank: float,
    smallest: float,
    most: int,
    split: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Upsample, normalise, cut and label each map; the components of most cells are told.

    Args:
        maps: (n, h, w) float32.
        row_taps, column_taps: see ``boxes.taps``.
        thresholds: (t,) float32, of the percentile.
        rank: of the percentile, 0 to 100.
        smallest: cells of a component, may be a fraction.
        most: components of a map.
        split: see ``boxes.split``; None, for which dividing is not even compiled: they stay whole.

    Returns:
        of each map at each threshold what became of it, (n x t,); its number of components,
        (n x t,); their left, top, right and bottom, half-open, (n x t, most, 4); the sum of the
        values in that box, (n x t, most); and the sum of all values of the map, (n x t,).
    """
    count = maps.shape[0] * thresholds.size
    height, width = row_taps[0].shape[0], column_taps[0].shape[0]
    outcome = np.zeros(count, np.int8)
    found = np.zeros(count, np.int64)
    extents = np.zeros((count, most, 4), np.int64)
    inside = np.zeros((count, most))
    total = np.zeros(count)
    values = np.empty((height, width), np.float32)
    # Rows of whole words: a word of eight equal cells is passed over at once.
    mask = np.zeros((height, -(-width // 8) * 8), np.uint8)
    for source in range(maps.shape[0]):
        first, last = source * thresholds.size, (source + 1) * thresholds.size
        outcome[first:last] = _usable(maps[source])
        if outcome[first] != FOUND:
            continue
        _upsample(maps[source], row_taps, column_taps, values)
        low, high = _extremes(values)
        if not high > low:
            outcome[first:last] = CONSTANT
            continue
        _normalise(values, low, high)
        # The largest value is 1 by now.
        of_all = np.float32(1) if rank == 100 else _percentile(values.reshape(-1), rank)
        total[first:last] = _sum(values, 0, 0, width, height)
        for number in range(first, last):
            cut = thresholds[number - first] * of_all
            _mark(values, cut, mask)
            if split is not None:
                _divide(values, cut, split, mask)
            found[number] = _components(mask, width, smallest, extents[number])
            for place in range(found[number]):
                left, top, right, bottom = extents[number, place]
                inside[number, place] = _sum(values, left, top, right, bottom)
    return outcome, found, extents, inside, total


@compiled
def cells_above(
    score_map: np.ndarray,
    row_taps: Taps,
    column_taps: Taps,
    threshold: np.float32,
    rank: float,
    split: float | None,
) -> np.ndarray:
    """Of one map (h, w) the cells of its components, (height, width) of 0 and 1; all 0 for none.

    The arguments are those of ``find_components``, to which they give the same cells.
    """
    height, width = row_taps[0].shape[0], column_taps[0].shape[0]
    values = np.empty((height, width), np.float32)
    mask = np.zeros((height, -(-width // 8) * 8), np.uint8)
    if _usable(score_map) != FOUND:
        return mask[:, :width]
    _upsample(score_map, row_taps, column_taps, values)
    low, high = _extremes(values)
    if not high > low:
        return mask[:, :width]
    _normalise(values, low, high)
    cut = threshold * (np.float32(1) if rank == 100 else _percentile(values.reshape(-1), rank))
    _mark(values, cut, mask)
    if split is not None:
        _divide(values, cut, split, mask)
    return mask[:, :width]


@compiled
def _usable(score_map: np.ndarray) -> int:
    low = high = score_map[0, 0]
    for row in range(score_map.shape[0]):
        for column in range(score_map.shape[1]):
            value = score_map[row, column]
            if not np.isfinite(value):
                return NON_FINITE
            low, high = min(low, value), max(high, value)
    largest = max(abs(low), abs(high))
    return FOUND if high - low > np.float32(CONSTANT_TOLERANCE) * largest else CONSTANT


@compiled
def _upsample(score_map: np.ndarray, row_taps: Taps, column_taps: Taps, values: np.ndarray) -> None:
    """Along the columns, then along the rows, added up in the order in which OpenCV does it."""
    (row_cells, row_weights), (column_cells, column_weights) = row_taps, column_taps
    wide = np.empty((score_map.shape[0], values.shape[1]), np.float32)
    for row in range(wide.shape[0]):
        source = score_map[row]
        for column in range(wide.shape[1]):
            cells, weights = column_cells[column], column_weights[column]
            wide[row, column] = (
                source[cells[0]] * weights[0]
                + source[cells[1]] * weights[1]
                + source[cells[2]] * weights[2]
                + source[cells[3]] * weights[3]
            )
    for row in range(values.shape[0]):
        cells, weights, made = row_cells[row], row_weights[row], values[row]
        first, second, third, fourth = weights[0], weights[1], weights[2], weights[3]
        above, at, below, beyond = wide[cells[0]], wide[cells[1]], wide[cells[2]], wide[cells[3]]
        for column in range(made.size):
            made[column] = above[column] * first + (
                at[column] * second + (below[column] * third + beyond[column] * fourth)
            )


@compiled
def _extremes(values: np.ndarray) -> tuple[np.float32, np.float32]:
    """The least and the largest value; where one is not a number, that is one of them.

    Floats are compared as integers of the same order, of which the compiler makes vectors: of
    floats it would have to mind those that are not numbers.
    """
    bits = values.reshape(-1).view(np.int32)
    low, high = np.int32(2**31 - 1), np.int32(-(2**31))
    for index in range(bits.size):
        key = _ordered(bits[index])
        low, high = min(low, key), max(high, key)
    found = np.empty(2, np.int32)
    found[0], found[1] = _ordered(low), _ordered(high)
    least, largest = found.view(np.float32)
    return least, largest


@compiled
def _ordered(bits: np.int32) -> np.int32:
    """Of a float's bits an integer that is in order as floats are, and of that the bits."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


@compiled
def _normalise(values: np.ndarray, low: np.float32, high: np.float32) -> None:
    span = high - low
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            values[row, column] = (values[row, column] - low) / span


@compiled
def _mark(values: np.ndarray, cut: np.float32, mask: np.ndarray) -> None:
    for row in range(values.shape[0]):
        source, target = values[row], mask[row]
        for column in range(source.size):
            target[column] = source[column] > cut


@compiled
def _divide(values: np.ndarray, cut: np.float32, share: float, mask: np.ndarray) -> None:
    """Clear the borders between the parts of regions that fall into several above a higher cut.

    Of the first higher cut that leaves two parts or more with this share of a region's cells, those
    parts are its seeds. Each other cell of it is of the seed that is fewest steps away.

    Args:
        mask: (h, w or more) of 0 and 1.
    """
    height, width = values.shape
    starts, stops, first = _runs(mask, width)
    parent = _joined(starts, stops, first)
    regions, sizes = np.zeros((height, width), np.int32), np.zeros(starts.size, np.int64)
    for row in range(height):
        for run in range(first[row], first[row + 1]):
            region = _root(parent, run)
            regions[row, starts[run] : stops[run]] = region
            sizes[region] += stops[run] - starts[run]
    seeds, seed_count = np.zeros((height, width), np.int32), 1
    divided = np.zeros(sizes.size, np.bool_)
    higher = np.zeros_like(mask)
    for step in range(1, HIGHER_CUTS + 1):
        _mark(values, cut + (np.float32(1) - cut) * np.float32(step / (HIGHER_CUTS + 1)), higher)
        starts, stops, first = _runs(higher, width)
        parent = _joined(starts, stops, first)
        cells, region_of = np.zeros(starts.size, np.int64), np.zeros(starts.size, np.int64)
        for row in range(height):
            for run in range(first[row], first[row + 1]):
                part = _root(parent, run)
                cells[part] += stops[run] - starts[run]
                region_of[part] = regions[row, starts[run]]
        large = cells >= np.maximum(share * sizes[region_of], 1)
        several = np.zeros(sizes.size, np.int64)
        for part in range(large.size):
            several[region_of[part]] += large[part]
        for row in range(height):
            for run in range(first[row], first[row + 1]):
                part = _root(parent, run)
                region = region_of[part]
                if large[part] and several[region] > 1 and not divided[region]:
                    seeds[row, starts[run] : stops[run]] = seed_count + part
        seed_count += starts.size
        divided |= several > 1
    if divided.any():
        _grow(seeds, mask)
        _clear_borders(seeds, mask)


@compiled
def _clear_borders(labels: np.ndarray, mask: np.ndarray) -> None:
    """Clear each cell of a mask that touches a later one of another label."""
    height, width = labels.shape
    for row in range(height):
        for column in range(width):
            label = labels[row, column]
            if not label:
                continue
            for below in range(row, min(row + 2, height)):
                for beside in range(max(column - 1, 0), min(column + 2, width)):
                    later = below > row or beside > column
                    if later and labels[below, beside] and labels[below, beside] != label:
                        mask[row, column] = 0


@compiled
def _grow(labels: np.ndarray, mask: np.ndarray) -> None:
    """Give cells without a label that of the one fewest steps away, through cells of the mask."""
    height, width = labels.shape
    reached = np.empty((labels.size, 2), np.int32)
    count, done = 0, 0
    for row in range(height):
        for column in range(width):
            if labels[row, column]:
                reached[count] = row, column
                count += 1
    while done < count:
        row, column = reached[done]
        done += 1
        for below in range(max(row - 1, 0), min(row + 2, height)):
            for beside in range(max(column - 1, 0), min(column + 2, width)):
                if mask[below, beside] and not labels[below, beside]:
                    labels[below, beside] = labels[row, column]
                    reached[count] = below, beside
                    count += 1


@compiled
def _sum(values: np.ndarray, left: int, top: int, right: int, bottom: int) -> float:
    """Of the values in a box: each column from the top, then these from the left.

    The order is written down, and not left to the compiler: it may compile this once for itself
    and once as a part of what calls it, and all copies have to give the same bits. Columns do not
    wait for each other, so a processor adds up several at once.
    """
    columns = np.zeros(right - left)
    for row in range(top, bottom):
        line = values[row, left:right]
        for column in range(line.size):
            columns[column] += np.float64(line[column])
    total = 0.0
    for column in range(columns.size):
        total += columns[column]
    return total


@compiled
def _percentile(values: np.ndarray, rank: float) -> np.float32:
    """What ``np.percentile`` gives of values (n,) from 0 to 1, to the last bit.

    First a sample says between which bounds it lies, then counting; there is little left to sort.
    Counting takes a processor that guesses branches less time than sorting.
    """
    place = (values.size - 1) * (rank / 100)
    below = int(np.floor(place))
    above = min(below + 1, values.size - 1)
    # Odd, so that it does not fall into step with the rows.
    step = values.size // SAMPLE_SIZE | 1
    sample = values[::step].copy()
    margin = int(MARGIN * sample.size) + 2
    first, last = below // step - margin, above // step + margin
    # Where the margin reaches an end of the sample, all values to that side are candidates.
    low = _bracket(sample, first)[0] if first >= 0 else np.float32(0)
    high = _bracket(sample, last)[1] if last < sample.size else np.float32(2)
    candidates, left_out = _between(values, low, high)
    if below < left_out or above >= left_out + candidates.size:
        candidates, left_out = values, 0
    few, of_candidates = _between(
        candidates,
        _bracket(candidates, below - left_out)[0],
        _bracket(candidates, above - left_out)[1],
    )
    few.sort()
    left_out += of_candidates
    lower, upper = few[below - left_out], few[above - left_out]
    share, difference = place - below, upper - lower
    # Of the two ways to interpolate, the one that is exact at the nearer end.
    if share < 0.5:
        return np.float32(lower + difference * np.float32(share))
    return np.float32(upper - difference * np.float32(1 - share))


@compiled
def _bracket(values: np.ndarray, place: int) -> tuple[np.float32, np.float32]:
    """Bounds around the value at this place of the sorted values, the upper one exclusive."""
    low, high = np.float32(0), np.float32(2)
    for _ in range(HALVINGS):
        middle = (low + high) / np.float32(2)
        if _count_below(values, middle) <= place:
            low = middle
        else:
            high = middle
    return low, high


@compiled
def _count_below(values: np.ndarray, bound: np.float32) -> int:
    # Of 32 bits, as the values are, so that a vector holds as many of one as of the other.
    count = np.uint32(0)
    for index in range(values.size):
        count = np.uint32(count + np.uint32(values[index] < bound))
    return int(count)


@compiled
def _between(values: np.ndarray, low: np.float32, high: np.float32) -> tuple[np.ndarray, int]:
    """The values from ``low`` to below ``high``, and how many are smaller."""
    chosen = np.zeros(-(-values.size // 8) * 8, np.uint8)
    for index in range(values.size):
        value = values[index]
        chosen[index] = np.uint8(value >= low) & np.uint8(value < high)
    found, count = np.empty(values.size + 1, np.float32), 0
    words = chosen.view(np.uint64)
    for word in range(words.size):
        if words[word]:
            for index in range(8 * word, min(8 * word + 8, values.size)):
                found[count] = values[index]
                count += chosen[index]
    return found[:count], _count_below(values, low)


@compiled
def _components(mask: np.ndarray, width: int, smallest: float, extents: np.ndarray) -> int:
    """The 8-connected components, the largest first, those of one size as OpenCV numbers them.

    Args:
        mask: (h, w) of 0 and 1, w a multiple of 8, zeros beyond ``width``.
        extents: (most, 4), takes left, top, right and bottom.

    Returns:
        how many were written.
    """
    starts, stops, first = _runs(mask, width)
    runs = starts.size
    parent = _joined(starts, stops, first)
    cells, block = np.zeros(runs, np.int64), np.zeros(runs, np.int64)
    reach = np.zeros((runs, 4), np.int64)
    blocks = -(-width // 2)
    for row in range(mask.shape[0]):
        for run in range(first[row], first[row + 1]):
            root = _root(parent, run)
            # OpenCV numbers components by the first of their blocks of two by two cells.
            place = row // 2 * blocks + starts[run] // 2
            if cells[root] == 0:
                reach[root] = (starts[run], row, stops[run], row + 1)
                block[root] = place
            cells[root] += stops[run] - starts[run]
            block[root] = min(block[root], place)
            reach[root, 0] = min(reach[root, 0], starts[run])
            reach[root, 2] = max(reach[root, 2], stops[run])
            reach[root, 3] = row + 1
    candidates = np.flatnonzero((cells > 0) & (cells >= smallest))
    written = min(candidates.size, extents.shape[0])
    for place in range(written):
        best = place
        for other in range(place + 1, candidates.size):
            one, two = candidates[other], candidates[best]
            if cells[one] > cells[two] or (cells[one] == cells[two] and block[one] < block[two]):
                best = other
        extents[place] = reach[candidates[best]]
        candidates[best] = candidates[place]
    return int(written)


@compiled
def _runs(mask: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs of set cells: where they start and stop, row by row, and the first of each row."""
    height = mask.shape[0]
    starts = np.empty(height * (width // 2 + 1), np.int64)
    stops = np.empty_like(starts)
    first = np.empty(height + 1, np.int64)
    words = mask.view(np.uint64)
    count = 0
    for row in range(height):
        first[row] = count
        within = np.uint8(0)
        for word in range(words.shape[1]):
            if words[row, word] == (_ALL_SET if within else np.uint64(0)):
                continue
            for column in range(8 * word, 8 * word + 8):
                if mask[row, column] != within:
                    within = mask[row, column]
                    if within:
                        starts[count] = column
                    else:
                        stops[count] = column
                        count += 1
        if within:
            stops[count] = width
            count += 1
    first[height] = count
    return starts[:count], stops[:count], first


@compiled
def _joined(starts: np.ndarray, stops: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Of each run one that it touches, or itself; ``_root`` of it is its component."""
    parent = np.arange(starts.size)
    for row in range(1, first.size - 1):
        above, here = first[row - 1], first[row]
        while above < first[row] and here < first[row + 1]:
            if starts[above] <= stops[here] and starts[here] <= stops[above]:
                _join(parent, above, here)
            if stops[above] < stops[here]:
                above += 1
            else:
                here += 1
    return parent


@compiled
def _root(parent: np.ndarray, run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return int(run)


@compiled
def _join(parent: np.ndarray, one: int, other: int) -> None:
    first, second = _root(parent, one), _root(parent, other)
    parent[max(first, second)] = min(first, second)
