"""The classes that come with images: in a member of a sample, a CSV file, or their folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from cambox.errors import RequestError, some_of
from cambox.sources.keys import one_spelling

_COLUMNS = ("image", "class_index")
_MAX_CLASS = 2**31 - 1
# Parsed they take up to thirty times as much, in each thread.
MOST_LABEL_BYTES = {"cls": 1 << 20, "json": 4 << 20}


class LabelError(ValueError):
    """A sample's label is there, but does not say which classes."""


def read_labels(
    members: Mapping[str, bytes], source: str, image: str | None = None
) -> tuple[int, ...] | None:
    """The class indices given with a sample, in their order, each once.

    Args:
        members: the sample's files, bytes by suffix.
        image: the suffix of its image; beside ``rgb.png`` the label is ``rgb.cls``, and ``cls``
            where there is none.
        source: ``cls``, a member with one integer or several separated by white space; or
            ``json:<field>``, a field of the member ``json`` with an integer or a list of them.

    Returns:
        None where the member, the field or its value (null) is absent; ``()`` where the label
        says that the image has no class.

    Raises:
        LabelError: the label is there, but malformed, too long, or zeros and ones of which some
            repeat: a flag for each class, not indices.
        RequestError: the source is of neither kind.
    """
    kind, _, field = source.partition(":")
    if source != "cls" and not (kind == "json" and field):
        raise RequestError(f"input.labels: {source!r} is unknown; use cls or json:<field>")
    beside = f"{(image or '').rpartition('.')[0]}.{kind}"
    data = members.get(beside, members.get(kind))
    if data is None:
        return None
    if len(data) > MOST_LABEL_BYTES[kind]:
        raise LabelError(f"{kind}: more than {MOST_LABEL_BYTES[kind]} bytes")
    return _from_text(data) if kind == "cls" else _from_json(data, field)


def _from_text(data: bytes) -> tuple[int, ...]:
    try:
        words = data.decode("utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise LabelError("cls: not a text") from error
    classes = []
    for word in words:
        digits = word.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            raise LabelError(f"cls: {word[:40]!r} is not an integer")
        classes.append(int(word))
    return _checked(classes, "cls")


def _from_json(data: bytes, field: str) -> tuple[int, ...] | None:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"json: broken ({error})") from error
    if not isinstance(record, dict):
        raise LabelError("json: not an object with fields")
    value = record.get(field)
    if value is None:
        return None
    classes = value if isinstance(value, list) else [value]
    for item in classes:
        # true and false are integers to Python.
        if not isinstance(item, int) or isinstance(item, bool):
            raise LabelError(f"json: {field} holds {str(item)[:40]!r}, not an integer")
    return _checked(classes, f"json: {field}")


def _checked(classes: list[int], where: str) -> tuple[int, ...]:
    for index in classes:
        if not 0 <= index <= _MAX_CLASS:
            reason = "negative" if index < 0 else "too large"
            raise LabelError(f"{where}: class {index} is {reason}")
    if len(set(classes)) < len(classes) and set(classes) <= {0, 1}:
        shown = some_of(list(map(str, classes)), 10)
        raise LabelError(f"{where}: {shown} are one-hot flags; list the classes' indices")
    return tuple(dict.fromkeys(classes))


def class_folders(
    images: Sequence[str],
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The class of each image by the folder it is in, and the classes' names, sorted.

    Args:
        images: paths below the folder of images, with ``/``.

    Returns:
        (classes by image, names by class); images that are not directly in a class folder have no
        class, and both are empty where most are not.
    """
    inside = [image for image in images if image.count("/") == 1]
    if 2 * len(inside) <= len(images):
        return {}, []
    names = sorted({image.partition("/")[0] for image in inside})
    ranks = {name: rank for rank, name in enumerate(names)}
    return {image: (ranks[image.partition("/")[0]],) for image in inside}, names


def require_no_other_folders(images_dir: Path, destination: Path, names: Sequence[str]) -> None:
    """See that all folders directly in a folder are classes, but for hidden ones and the output.

    Raises:
        RequestError: one holds no image; with or without it all later classes have another index.
    """
    for folder in sorted(images_dir.iterdir()):
        other = folder.name not in names and not folder.name.startswith(".")
        if other and folder.is_dir() and folder.resolve() != destination.resolve():
            raise RequestError(
                f"{folder}: a class folder without images would shift the classes after it; remove "
                "it, or give the classes with --labels"
            )


def read_labels_csv(
    path: Path, images: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The classes of each image that the file names, in its order, each once.

    Args:
        path: CSV with the columns ``image,class_index`` or ``image,class_name``; others are
            ignored.
        images: paths below the folder of images, with ``/``; the CSV may leave out extensions.

    Returns:
        (classes by image, names in the file that are of no image).

    Raises:
        RequestError: the file is missing or no such CSV, it names none of the images, or a row
            names something else than a class; the message has the file and the line.
    """
    known = {str(PurePosixPath(image).with_suffix("")): image for image in images}
    known |= {image: image for image in images}
    # Names as they are come before those that are only spelled otherwise.
    known = {one_spelling(name): image for name, image in known.items()} | known
    labels: dict[str, dict[int, None]] = {}
    absent: dict[str, None] = {}
    try:
        for where, row in _rows(path):
            name, index = (str(row[column] or "").strip() for column in _COLUMNS)
            if not name:
                raise RequestError(f"{where}: no image is named")
            plain = str(PurePosixPath(name))
            image = known.get(plain) or known.get(one_spelling(plain))
            if not (index.isascii() and index.isdigit() and len(index) < 20):
                raise RequestError(f"{where}: {index!r} is no class index; use 0, 1, 2, ...")
            if int(index) > _MAX_CLASS:
                raise RequestError(f"{where}: class {index} is too large; use at most {_MAX_CLASS}")
            if image is None:
                absent[name] = None
            else:
                labels.setdefault(image, {})[int(index)] = None
    except FileNotFoundError as error:
        raise RequestError(f"--labels: {path} does not exist; correct the path") from error
    except (IsADirectoryError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"--labels: {path} is no UTF-8 CSV file ({error})") from error
    if absent and not labels:
        raise RequestError(
            f"--labels: {path} names none of the images, but {some_of(list(absent))}; name them by "
            f"their paths below the folder, such as {images[0]}"
        )
    return {image: tuple(classes) for image, classes in labels.items()}, list(absent)


def named_classes(path: Path) -> list[str]:
    """The names of the classes of a CSV that has a column ``class_name``.

    They count as they are sorted, or by ``class_index`` where that is a column too; then the list
    is empty unless each index from 0 on has one name.
    """
    by_index: dict[str, set[str]] = {}
    for _, row in _rows(path):
        name = str(row.get("class_name") or "").strip()
        by_index.setdefault(str(row["class_index"] or "").strip(), set()).add(name)
    found = [by_index.get(str(index), set()) for index in range(len(by_index))]
    whole = all(len(names) == 1 and "" not in names for names in found)
    return [name for names in found for name in names] if whole else []


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """The rows, with where they are; a class that is named has its place among the sorted names."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = reader.fieldnames or ()
        by_name = "class_index" not in columns and "class_name" in columns
        for column in ("image",) if by_name else _COLUMNS:
            if column not in columns:
                raise RequestError(
                    f"--labels: {path}, line 1: no column {column!r}; it needs image,class_index "
                    f"or image,class_name"
                )
        rows = ((f"--labels: {path}, line {reader.line_num}", row) for row in reader)
        if not by_name:
            yield from rows
            return
        named = [(where, row, str(row["class_name"] or "").strip()) for where, row in rows]
        ranks = {name: rank for rank, name in enumerate(sorted({name for *_, name in named}))}
        for where, row, name in named:
            if not name:
                raise RequestError(f"{where}: the class has no name; add it or remove the line")
            yield where, row | {"class_index": str(ranks[name])}
