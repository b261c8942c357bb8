"""``cambox export``: a recipe's folder, to a folder that a detector's training reads."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cambox import __version__
from cambox.console import Advance, counted, say
from cambox.errors import RequestError, ShardError
from cambox.export import Format
from cambox.export.coco import CocoWriter
from cambox.export.coco_results import CocoResultsWriter, TruthIds
from cambox.export.cvat import CvatWriter
from cambox.export.fiftyone import FiftyOneWriter
from cambox.export.hf import HuggingFaceWriter
from cambox.export.images import NotUpright, exported_images
from cambox.export.labelstudio import LabelStudioWriter
from cambox.export.request import ExportRequest, check, image_root
from cambox.export.voc import VocWriter
from cambox.export.writer import FileNames, Writer, write_new
from cambox.export.yolo import YoloWriter
from cambox.output.whole import name_beside
from cambox.training.labelled import IMAGE_COLUMNS, TrainingSet
from cambox.training.selection import ClassList
from cambox.training.shards import shards_now

if TYPE_CHECKING:
    from cambox.export.masks import Masks

ABOUT = "cambox.json"
NOT_UPRIGHT = "cannot be turned upright"
NAMES_SHOWN = 5
# Where the format has two lists and nobody says how much the second gets.
_VAL_SHARE = 0.1


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        left_out: how many images were not, by status, for want of a box, or as ``NOT_UPRIGHT``.
        turned: images that were encoded anew, because they had an orientation to be applied.
        notes: what there is to know of the files, and which images were ``NOT_UPRIGHT``.
    """

    images: int
    boxes: int
    classes: int
    left_out: Mapping[str, int]
    turned: int
    notes: tuple[str, ...] = ()


def export(request: ExportRequest, on_image: Advance | None = None) -> ExportReport:
    """Write an export; its folder appears when it is whole, or not at all.

    In memory are eight bytes an image, and the rows of one file; with images, one image.

    Args:
        on_image: called with the number of images, after each.

    Raises:
        RequestError: nothing is published there, the folder is in the way, no image is left, or
            a shard is gone or not the one annotated; or the storage failed.
    """
    check(request)
    training_set = TrainingSet.open(request.output, request.selection)
    to = request.to.resolve()
    beside = to.with_name(name_beside(to.name))
    try:
        # First, so that nothing is read for a place that cannot be written.
        beside.mkdir(parents=True)
        report = _write(request, training_set, beside, on_image)
        beside.replace(to)
    except ShardError as error:
        raise RequestError(f"{error}, or leave the images out") from error
    except OSError as error:
        raise RequestError(f"{error}; nothing was exported to {request.to}") from error
    finally:
        # Where all went well it has another name by now.
        shutil.rmtree(beside, ignore_errors=True)
    return report


def _write(
    request: ExportRequest, training_set: TrainingSet, folder: Path, on_image: Advance | None
) -> ExportReport:
    names, present, left_out = _scan(training_set)
    if not names.keys:
        raise _none_left(request, left_out)
    if request.present_classes:
        ids = [training_set.classes.ids[place] for place in sorted(present)]
        classes = ClassList.of(training_set.recipe.footer.classes, ids)
        training_set = replace(training_set, classes=classes)
    files = training_set.recipe.files
    shards = shards_now(files, request.shards_at) if request.with_images else None
    masks = _masks(training_set) if request.masks else None
    root = image_root(request)
    writer = _writer(request, folder, training_set)
    images = boxes = turned = 0
    odd: list[str] = []
    for index in range(len(files)):
        writer.start_shard(index, len(files))
        if masks is not None:
            masks.start_file(index)
        for exported in exported_images(training_set, index, shards, names, root):
            if on_image is not None:
                on_image(names.keys)
            if isinstance(exported, NotUpright):
                left_out[NOT_UPRIGHT] += 1
                odd += [str(exported)] if len(odd) < NAMES_SHOWN else []
                continue
            if masks is not None:
                exported = replace(exported, masks=masks.of(exported.image))
            writer.add(exported)
            images += 1
            boxes += len(exported.image.boxes)
            turned += exported.turned
    if not images:
        raise _none_left(request, left_out, odd[0])
    writer.close()
    notes = (*writer.notes(), *_told_apart(names), *odd)
    classes_count = len(training_set.classes.ids)
    report = ExportReport(images, boxes, classes_count, dict(left_out), turned, notes)
    write_new(folder / ABOUT, _about(request, training_set, report))
    return report


def _masks(training_set: TrainingSet) -> Masks:
    # Compiles nothing, but imports what compiles, which all else here does without.
    from cambox.export.masks import Masks

    return Masks(training_set)


def _writer(request: ExportRequest, folder: Path, training_set: TrainingSet) -> Writer:
    classes, footer = training_set.classes, training_set.recipe.footer
    match request.format:
        case Format.coco:
            return CocoWriter(folder, classes, request.with_images)
        case Format.yolo:
            val = _VAL_SHARE if request.val is None else request.val
            return YoloWriter(folder, classes, request.with_images, val)
        case Format.voc:
            return VocWriter(folder, classes, request.fractions)
        case Format.hf:
            return HuggingFaceWriter(folder, classes, request.with_images)
        case Format.coco_results:
            truth = request.truth and TruthIds.read(request.truth, footer.classes)
            return CocoResultsWriter(folder, classes, truth or None)
        case Format.labelstudio:
            digest = footer.recipe_digest
            return LabelStudioWriter(folder, classes, request.with_images, digest)
        case Format.cvat:
            return CvatWriter(folder, classes, request.with_images)
        case Format.fiftyone:
            return FiftyOneWriter(folder, classes, request.with_images)


def _told_apart(names: FileNames) -> tuple[str, ...]:
    if not names.told_apart:
        return ()
    count = counted(names.told_apart, "image")
    return (f"told apart by a digest in the name, as keys of several make one name: {count}",)


def _none_left(request: ExportRequest, left_out: Mapping[str, int], *why: str) -> RequestError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    text = "; ".join([f"no image is left ({reasons or 'no rows'})", *why])
    return RequestError(f"{request.output}: {text}; ask for less, or keep images without a box")


def print_report(report: ExportReport, to: Path, console: Console) -> None:
    """Say what was exported and what was not."""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.left_out.items()))
    say(
        console,
        f"{counted(report.images, 'image')} with {counted(report.boxes, 'box')}, "
        f"{counted(report.classes, 'class')}: {to}",
        f"left out: {left_out or 'nothing'}",
        *report.notes,
    )
    if report.turned:
        say(console, f"turned upright and encoded anew: {counted(report.turned, 'image')}")


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
