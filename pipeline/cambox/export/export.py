"""``cambox export``: a recipe's folder, to a folder that a detector's training reads."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
from rich.console import Console

from cambox import __version__
from cambox.console import Advance, say
from cambox.errors import RequestError, ShardError
from cambox.export import Format
from cambox.export.coco import CocoWriter
from cambox.export.hf import HuggingFaceWriter
from cambox.export.voc import VocWriter
from cambox.export.writer import Exported, FileNames, Writer, write_new
from cambox.export.yolo import YoloWriter
from cambox.output.publish import name_beside
from cambox.sources.decode import DecodeError, decode_image, is_upright
from cambox.sources.shards import Shard
from cambox.training.labelled import IMAGE_COLUMNS, TrainingSet
from cambox.training.selection import ClassList, Selection
from cambox.training.shards import encoded_images, shards_now

ABOUT = "cambox.json"
ASSUMED_SUFFIX = "jpg"
_JPEG_QUALITY = 95

WRITERS: Mapping[Format, type[Writer]] = {
    Format.coco: CocoWriter,
    Format.yolo: YoloWriter,
    Format.voc: VocWriter,
    Format.hf: HuggingFaceWriter,
}


@dataclass(frozen=True)
class ExportRequest:
    """What is exported, and how.

    Attributes:
        output: a recipe's folder, or an output that holds one recipe; a path or URL.
        to: a folder that is not there yet.
        present_classes: only classes that a box is left of, in the order of their ids.
        with_images: extract the images; else the export says of each its shard and key.
        shards_at: the folder or URL that holds the shards now, if they were moved or copied.
    """

    output: str
    format: Format
    to: Path
    selection: Selection = field(default_factory=Selection)
    present_classes: bool = False
    with_images: bool = False
    shards_at: str | None = None


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        left_out: how many images were not, by status, and for want of a box.
        turned: images that were encoded anew, because they had an orientation to be applied.
    """

    images: int
    boxes: int
    classes: int
    left_out: Mapping[str, int]
    turned: int


def export(request: ExportRequest, on_image: Advance | None = None) -> ExportReport:
    """Write an export; its folder appears when it is whole, or not at all.

    In memory are eight bytes an image, and the rows of one file; with images, one image.

    Args:
        on_image: called with the number of images, after each.

    Raises:
        RequestError: nothing is published there, the folder is in the way, no image is left, or
            a shard is gone or not the one annotated; or the storage failed.
    """
    to = request.to.resolve()
    _require_free(request.to)
    training_set = TrainingSet.open(request.output, request.selection)
    names, present, left_out = _scan(training_set)
    if not names.keys:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise RequestError(
            f"{request.output}: no image is left ({reasons or 'no rows'}); ask for less, or keep "
            "images without a box"
        )
    if request.present_classes:
        ids = [training_set.classes.ids[place] for place in sorted(present)]
        classes = ClassList.of(training_set.recipe.footer.classes, ids)
        training_set = replace(training_set, classes=classes)
    files = training_set.recipe.files
    shards = shards_now(files, request.shards_at) if request.with_images else None
    beside = to.with_name(name_beside(to.name))
    try:
        beside.mkdir(parents=True)
        writer = WRITERS[request.format](beside, training_set.classes, request.with_images)
        boxes = turned = 0
        for index in range(len(files)):
            writer.start_shard(index, len(files))
            for exported in _exported(training_set, index, shards, names):
                writer.add(exported)
                boxes += len(exported.image.boxes)
                turned += exported.turned
                if on_image is not None:
                    on_image(names.keys)
        writer.close()
        classes_count = len(training_set.classes.ids)
        report = ExportReport(names.keys, boxes, classes_count, dict(left_out), turned)
        write_new(beside / ABOUT, _about(request, training_set, report))
        beside.replace(to)
    except (ShardError, DecodeError) as error:
        raise RequestError(f"{error}, or leave the images out") from error
    except OSError as error:
        raise RequestError(f"{error}; nothing was exported to {request.to}") from error
    finally:
        # Where all went well it has another name by now.
        shutil.rmtree(beside, ignore_errors=True)
    return report


def print_report(report: ExportReport, to: Path, console: Console) -> None:
    """Say what was exported and what was not."""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.left_out.items()))
    say(
        console,
        f"{report.images:,} images with {report.boxes:,} boxes, {report.classes:,} classes: {to}",
        f"left out: {left_out or 'nothing'}",
    )
    if report.turned:
        say(console, f"{report.turned:,} images were turned upright and encoded anew")


def _require_free(to: Path) -> None:
    if "://" in str(to) or ":/" in str(to):
        raise RequestError(f"--to: {to} is a URL; name a local folder and copy it from there")
    if to.exists() or to.is_symlink():
        raise RequestError(f"--to: {to} is there already; name a new folder, or remove it")


def _scan(training_set: TrainingSet) -> tuple[FileNames, set[int], Counter[str]]:
    """What is known of all rows before anything is written.

    Returns:
        The images' names, the places of classes that have a box, and how many images are left out,
        by status.
    """
    present: set[int] = set()
    left_out: Counter[str] = Counter()

    def keys() -> Iterator[str]:
        for index in range(len(training_set.recipe.files)):
            for part in training_set.read(index, IMAGE_COLUMNS):
                present.update(part.boxes.class_id.tolist())
                left_out.update(part.left_out)
                yield from part.keys.to_pylist()

    return FileNames.of_keys(keys()), present, left_out


def _exported(
    training_set: TrainingSet, index: int, shards: Sequence[Shard] | None, names: FileNames
) -> Iterator[Exported]:
    """The images of one file, with their bytes where the shards are given."""
    if shards is None:
        for part in training_set.read(index):
            for image in part:
                yield Exported(image, names.name(image.key, image.shard), ASSUMED_SUFFIX)
        return
    for image, suffix, stored in encoded_images(training_set, index, shards[index]):
        data, suffix, turned = _upright(stored, suffix, training_set.max_pixels)
        yield Exported(image, names.name(image.key, image.shard), suffix, data, turned)


def _upright(data: bytes, suffix: str, max_pixels: int) -> tuple[bytes, str, bool]:
    """The file as it is, or, where an orientation is to be applied, encoded anew.

    Many readers of these formats do not look at the orientation, and the boxes are those of the
    upright image.

    Args:
        suffix: as in the shard; of a compound one (``left.jpg``) the last part counts.

    Returns:
        The file, its suffix, and whether it was turned: a JPEG stays one (quality 95), all else
        that is turned becomes a PNG.

    Raises:
        DecodeError: it is no image, or has to be turned and does not decode.
    """
    kind = suffix.rpartition(".")[2]
    if is_upright(data, max_pixels):
        return data, kind, False
    pixels = cv2.cvtColor(decode_image(data, max_pixels), cv2.COLOR_RGB2BGR)
    if kind in ("jpg", "jpeg"):
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    else:
        kind = "png"
        _, encoded = cv2.imencode(".png", pixels)
    return encoded.tobytes(), kind, True


def _about(request: ExportRequest, training_set: TrainingSet, report: ExportReport) -> bytes:
    """Where an export comes from, and which number stands for which class."""
    classes = training_set.classes
    document = {
        "cambox": __version__,
        "format": request.format,
        "output": training_set.recipe.uri,
        "recipe_digest": training_set.recipe.footer.recipe_digest,
        "selection": asdict(request.selection),
        **asdict(report),
        "class_ids": dict(zip(classes.names, classes.ids, strict=True)),
    }
    return json.dumps(document, indent=1).encode() + b"\n"
