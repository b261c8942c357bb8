"""The classes of images in a folder: from a CSV file, or from the folders they are in."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from cambox.errors import RequestError

_COLUMNS = ("image", "class_index")
_MAX_CLASS = 2**31 - 1


def class_folders(
    images_dir: Path, destination: Path, images: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The class of each image by the folder it is in, and the classes' names.

    Args:
        images_dir: the folder of images.
        destination: not a class, where it is inside ``images_dir``.
        images: paths below ``images_dir``, with ``/``.

    Returns:
        (classes by image, names by class); both empty unless every image is in a folder directly
        below ``images_dir``.

    Raises:
        RequestError: a folder without images, because with or without it all later classes have
            another index.
    """
    if any(image.count("/") != 1 for image in images):
        return {}, []
    names = sorted(
        folder.name
        for folder in images_dir.iterdir()
        if folder.is_dir()
        and not folder.name.startswith(".")
        and folder.resolve() != destination.resolve()
    )
    ranks = {name: rank for rank, name in enumerate(names)}
    labels: dict[str, tuple[int, ...]] = {
        image: (ranks[image.partition("/")[0]],) for image in images
    }
    used = {image.partition("/")[0] for image in images}
    for name in names:
        if name not in used:
            raise RequestError(
                f"{images_dir / name}: a class folder without images would shift the classes "
                "after it; remove it, or give the classes with --labels"
            )
    return labels, names


def read_labels_csv(path: Path, images: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The classes of each image that the file names, in its order, each once.

    Args:
        path: CSV with the columns ``image,class_index``; others are ignored.
        images: paths below the folder of images, with ``/``; the CSV may leave out extensions.

    Raises:
        RequestError: the file is missing or no such CSV, or a row names an unknown image or
            something else than a class; the message has the file and the line.
    """
    known = {str(PurePosixPath(image).with_suffix("")): image for image in images}
    known.update({image: image for image in images})
    labels: dict[str, dict[int, None]] = {}
    try:
        for where, row in _rows(path):
            name, index = (str(row[column] or "").strip() for column in _COLUMNS)
            image = known.get(str(PurePosixPath(name)))
            if image is None:
                raise RequestError(f"{where}: there is no image {name!r}; correct or remove it")
            if not (index.isascii() and index.isdigit() and len(index) < 20):
                raise RequestError(f"{where}: {index!r} is no class index; use 0, 1, 2, ...")
            if int(index) > _MAX_CLASS:
                raise RequestError(f"{where}: class {index} is too large; use at most {_MAX_CLASS}")
            labels.setdefault(image, {})[int(index)] = None
    except FileNotFoundError as error:
        raise RequestError(f"--labels: {path} does not exist; correct the path") from error
    except (IsADirectoryError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"--labels: {path} is no UTF-8 CSV file ({error})") from error
    return {image: tuple(classes) for image, classes in labels.items()}


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        for column in _COLUMNS:
            if column not in (reader.fieldnames or ()):
                raise RequestError(
                    f"--labels: {path}, line 1: no column {column!r}; it needs image,class_index"
                )
        for row in reader:
            yield f"--labels: {path}, line {reader.line_num}", row
