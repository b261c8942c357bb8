"""What is asked of an export, and what of it does not go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cambox.errors import RequestError
from cambox.export import Format
from cambox.export.addresses import KEY, LOCAL_FILES, address_below
from cambox.training.selection import Selection

# What name an image by one path or URL, and so can point at a file that lies elsewhere.
_POINTING = (
    *(Format.coco, Format.coco_results),
    *(Format.labelstudio, Format.cvat, Format.fiftyone),
)


@dataclass(frozen=True)
class ExportRequest:
    """What is exported, and how.

    Attributes:
        output: a recipe's folder, or an output with one or a ``latest``; a path or URL.
        to: a folder that is not there yet.
        present_classes: only classes that a box is left of, in the order of their ids.
        with_images: extract the images; else the export says of each its shard and key.
        shards_at: the folder or URL that holds the shards now, if they were moved or copied.
        val: YOLO: the share of the images to validate with, 0 to below 1; None: a tenth.
        fractions: VOC: corners to a thousandth of a pixel; else to whole pixels.
        image_root: COCO and what people review in: where the user's own files are, see
            ``addresses_of``; None: what the format does without.
        masks: COCO: masks from the stored maps; else the boxes as polygons.
        truth: COCO's results: the dataset whose ids they have.
    """

    output: str
    format: Format
    to: Path
    selection: Selection = field(default_factory=Selection)
    present_classes: bool = False
    with_images: bool = False
    shards_at: str | None = None
    val: float | None = None
    fractions: bool = False
    image_root: str | None = None
    masks: bool = False
    truth: str | None = None


def check(request: ExportRequest) -> None:
    """What can be wrong before anything is read.

    Raises:
        RequestError: what it asks for does not go together, or the folder is in the way.
    """
    to = request.to
    if request.val is not None and request.format is not Format.yolo:
        raise RequestError(f"--val: {request.format} has one list of images; leave it out")
    if request.val is not None and not 0 <= request.val < 1:
        raise RequestError(f"--val: {request.val:g} is no share from 0 to below 1, such as 0.1")
    if request.fractions and request.format is not Format.voc:
        raise RequestError(f"--fractions: {request.format} has them anyway; leave it out")
    _check_images(request)
    if request.masks and request.format is not Format.coco:
        raise RequestError(f"--masks: {request.format} has no place for them here; use coco")
    if request.truth is not None and request.format is not Format.coco_results:
        raise RequestError(f"--truth: {request.format} has ids of its own; use coco-results")
    if request.truth is not None and not request.truth.lower().endswith(".json"):
        raise RequestError(
            f"--truth: {request.truth} has no ids; name a COCO dataset, which ends in .json"
        )
    if "://" in str(to) or ":/" in str(to):
        raise RequestError(f"--to: {to} is a URL; name a local folder and copy it from there")
    if to.exists() or to.is_symlink():
        raise RequestError(f"--to: {to} is there already; name a new folder, or remove it")


def _check_images(request: ExportRequest) -> None:
    """What can be wrong about where the images are."""
    root = request.image_root
    if root is not None and request.format not in _POINTING:
        raise RequestError(
            f"--image-root: {request.format} has no place for it, its readers look beside the "
            "labels; use --images"
        )
    if root is not None and request.truth is not None:
        raise RequestError("--image-root: with --truth the images are the truth's; leave it out")
    own = request.format is Format.fiftyone or KEY in (root or "")
    if root is not None and request.with_images and own:
        raise RequestError(
            f"--image-root: {root} would be your own files, and --images extracts them; leave one "
            "of the two out"
        )
    if request.with_images and request.format is Format.coco_results:
        raise RequestError("--images: results are read beside a truth, which has its images")
    if request.format is Format.fiftyone and not request.with_images:
        if root is None:
            raise RequestError(
                "fiftyone: it opens the images; extract them with --images, or say with "
                "--image-root where they are"
            )
        if "://" in root:
            raise RequestError(f"--image-root: {root} is a URL; FiftyOne opens local files")


def image_root(request: ExportRequest) -> str | None:
    """What the addresses of the images begin with; None: they have none but their names."""
    root = request.image_root
    if request.format is Format.labelstudio and root is None:
        return address_below(LOCAL_FILES, "images/") if request.with_images else LOCAL_FILES
    if request.format is Format.fiftyone and root is not None:
        # It takes what is relative to be beside its own file.
        return str(Path(root).absolute())
    return root
