"""``cambox corrections``: a review file to reviewed rows of the output, true boxes and counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from cambox.boxes import Boxes, at_edge, iou
from cambox.console import Advance
from cambox.errors import RequestError, ShardError
from cambox.output.folders import RECIPE_FOLDER
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.output.recheck import picture_digests
from cambox.output.reviewed import ReviewedRow, keep_reviewed, with_rows
from cambox.output.rows import OBJECT_TYPE, SIDES, boxes_from_arrow
from cambox.review.corrections.formats import read_review
from cambox.review.corrections.images import CorrectedBox, ReviewFile
from cambox.review.corrections.matching import MatchedImage, match_images
from cambox.review.corrections.tally import Tally
from cambox.training.selection import ClassList
from cambox.training.shards import shards_now

NO_PICTURE = "its row has no picture"
OTHER_SHAPE = "the review is of a picture of another shape"
GONE = "its picture is gone from the shard"
# Of width and height: tools round, and shrink pictures before they show them.
_MOST_DISTORTION = 0.02
_THE_SAME = 0.98
NO_SIZE = "boxes without width or height"
LACKING = "pictures without boxes in which people miss one"


@dataclass
class Taken:
    """What a review file gave.

    Attributes:
        output: URI of the folder that holds the recipes', beside which the rows are kept.
        rows: the reviewed rows, now of the output.
        unmatched: images of the file that are no row, by their name, and why.
        unknown_classes: names that are no class of the recipe, with the number of their boxes.
        unjudged: rows of which some boxes were left without a word.
    """

    output: str
    recipe: PublishedRecipe
    review: ReviewFile
    rows: list[ReviewedRow] = field(default_factory=list)
    unmatched: dict[str, str] = field(default_factory=dict)
    unknown_classes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    unjudged: int = 0
    tally: Tally = field(default_factory=Tally)

    @property
    def complete(self) -> bool:
        """Whether all of the file has its place in the output."""
        return not (self.unmatched or self.unknown_classes)


def take_corrections(
    review_uri: str,
    output: str,
    shards_at: str | None = None,
    on_file: Advance | None = None,
    on_shard: Advance | None = None,
) -> Taken:
    """Read a review file and keep what it says as reviewed rows of an output.

    Args:
        shards_at: the folder or URL that holds the shards now, if they were moved.

    Raises:
        RequestError: the file or the output cannot be read, none of the images is a row, or a shard
            is not the one annotated.
        OSError: the output cannot be written.
    """
    review = read_review(review_uri)
    # Against what the recipe made, also where an earlier review stands over it.
    recipe = open_recipe(output, reviewed=False)
    root, _, name = recipe.uri.rpartition("/")
    if RECIPE_FOLDER.fullmatch(name) is None:
        raise RequestError(
            f"{recipe.uri} is no recipe's folder as annotate makes it, so nothing can be kept "
            "beside it; name the output itself"
        )
    taken = Taken(root, recipe, review, left_out=Counter(review.left_out))
    matched, taken.unmatched = match_images(recipe, review.images, on_file)
    if not matched:
        first = next(iter(taken.unmatched.items()), ("the file", "it says of no image anything"))
        raise RequestError(
            f"{review_uri}: none of its {len(review.images)} reviewed images is a row of "
            f"{recipe.uri}: {first[0]}: {first[1]}"
        )
    fitting = []
    for one in matched:
        problem = _problem(one)
        if problem is None:
            fitting.append(one)
        else:
            taken.unmatched[one.image.name] = problem
    digests = _digests(recipe, fitting, shards_at, on_shard)
    classes = _Classes(recipe.footer.classes)
    source, now = review_uri.rsplit("/", 1)[-1], datetime.now(UTC)
    for one in fitting:
        digest = digests[one.file.shard.uri][one.row["key"]]
        if digest is None:
            taken.unmatched[one.image.name] = GONE
        elif one.image.lacking:
            taken.left_out[LACKING] += 1
        else:
            taken.rows.append(_reviewed(one, digest, classes, taken, source, now))
    if not taken.rows and taken.unmatched:
        name, why = next(iter(taken.unmatched.items()))
        raise RequestError(f"{review_uri}: none of its reviewed images fits its row: {name}: {why}")
    keep_reviewed(root, lambda there: with_rows(there, taken.rows), recipe.folder.storage_options)
    return taken


class _Classes:
    """The classes that names in review files stand for: as exports call them, or the recipe."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.ids: dict[str, int] = {}
        exported = ClassList.of(names, None).names
        folded = [name.strip().casefold() for name in exported]
        for number, name in enumerate(folded):
            if folded.count(name) == 1:
                self.ids[name] = number
        self.ids |= {name: number for number, name in enumerate(exported)}

    def id_of(self, box: CorrectedBox) -> int:
        """-1 for one that the recipe does not have."""
        name, number = box.class_name, box.class_id
        if name is None:
            return -1
        if number is not None and list(self.names[number : number + 1]) == [name]:
            return number
        return self.ids.get(name, self.ids.get(name.strip().casefold(), -1))


def _problem(one: MatchedImage) -> str | None:
    """Why a review cannot be of the picture of its row."""
    width, height = one.row["width"], one.row["height"]
    if width is None or height is None:
        return NO_PICTURE
    if one.image.size is not None:
        across, down = one.image.size[0] / width, one.image.size[1] / height
        # Of a tiny picture one pixel is more than that.
        most = max(_MOST_DISTORTION, 1 / min(width, height))
        if abs(across / down - 1) > most:
            return (
                f"{OTHER_SHAPE}, {one.image.size[0]:g} x {one.image.size[1]:g}, and not "
                f"{width} x {height}"
            )
    return None


def _digests(
    recipe: PublishedRecipe,
    matched: Sequence[MatchedImage],
    shards_at: str | None,
    on_shard: Advance | None,
) -> dict[str, dict[str, str | None]]:
    """The digests of the pictures, by shard and key."""
    keys: dict[str, set[str]] = defaultdict(set)
    files: dict[str, PublishedFile] = {}
    for one in matched:
        keys[one.file.shard.uri].add(one.row["key"])
        files[one.file.shard.uri] = one.file
    digests = {}
    try:
        shards = shards_now(list(files.values()), shards_at) if files else []
        for uri, shard in zip(files, shards, strict=True):
            digests[uri] = picture_digests(shard, keys[uri], recipe.image_rule)
            if on_shard is not None:
                on_shard(len(shards))
    except (OSError, ShardError) as error:
        raise RequestError(f"{error}; nothing was taken") from error
    return digests


def _reviewed(
    one: MatchedImage,
    digest: str,
    classes: _Classes,
    taken: Taken,
    source: str,
    now: datetime,
) -> ReviewedRow:
    """The row that people made of a row; what became of its boxes is counted."""
    width, height = one.row["width"], one.row["height"]
    judged = [box for box in one.image.boxes if box.judged]
    left = _in_pixels(judged, one, classes)
    sized: np.ndarray = np.all(left.sides > 0, axis=1)
    if not sized.all():
        taken.left_out[NO_SIZE] += int((~sized).sum())
    left = left[sized]
    names = [str(box.class_name) for box, has_size in zip(judged, sized, strict=True) if has_size]
    unknown = [name for name, number in zip(names, left.class_id, strict=True) if number < 0]
    # A class that is only said to be wrong has no name that the recipe could lack.
    taken.unknown_classes.update(name for name in unknown if name != "None")

    stored: list[Mapping[str, Any]] = one.row["objects"]
    pseudo = boxes_from_arrow(pa.array([stored], pa.list_(OBJECT_TYPE)))
    as_it_was = _places_of([box for box in one.image.boxes if not box.judged], pseudo, one, classes)
    of_judged = np.setdiff1d(np.arange(len(pseudo)), as_it_was)
    pseudo_names = [stored[place]["class_name"] for place in of_judged]
    taken.tally.add(pseudo[of_judged], pseudo_names, left, names)
    taken.unjudged += bool(as_it_was)

    known = left[left.class_id >= 0]
    edge = at_edge(known.scaled(1 / width, 1 / height).corners)
    objects = [
        {
            "class_id": number,
            "class_name": classes.names[number],
            "rank": 0,
            "class_score": 1.0,
            "box_score": 1.0,
            **dict(zip(SIDES, corners, strict=True)),
            "component": 0,
            "touches_edge": bool(touches),
        }
        for number, corners, touches in zip(
            known.class_id.tolist(), known.corners.tolist(), edge, strict=True
        )
    ]
    return ReviewedRow(
        shard=one.file.shard.uri,
        key=one.row["key"],
        sha256=digest,
        width=width,
        height=height,
        complete=not (as_it_was or unknown),
        objects=(*objects, *(stored[place] for place in as_it_was)),
        same_in=(one.file.shard.fingerprint,),
        source=source,
        reviewed_at=now,
    )


def _in_pixels(boxes: Sequence[CorrectedBox], one: MatchedImage, classes: _Classes) -> Boxes:
    """Boxes in pixels of the row's image, and within it."""
    size = (one.row["width"], one.row["height"])
    corners = np.array([box.corners for box in boxes], np.float64).reshape(-1, 4)
    if one.image.size is not None and tuple(one.image.size) != size:
        corners = corners * (np.array(size * 2) / np.array(one.image.size * 2))
    corners = np.clip(np.nan_to_num(corners), 0, np.array(size * 2))
    return Boxes.of(corners, class_id=[classes.id_of(box) for box in boxes])


def _places_of(
    boxes: Sequence[CorrectedBox], pseudo: Boxes, one: MatchedImage, classes: _Classes
) -> list[int]:
    """Which of the pseudo boxes those are that nobody has judged."""
    places = []
    unjudged = _in_pixels(boxes, one, classes)
    for number in range(len(unjudged)):
        overlap = iou(pseudo.corners, unjudged.corners[number][None])
        overlap[pseudo.class_id != unjudged.class_id[number]] = 0
        if len(overlap) and overlap.max() >= _THE_SAME:
            places.append(int(overlap.argmax()))
    return sorted(set(places))
