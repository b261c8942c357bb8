"""A folder of images, to WebDataset shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cambox.errors import RequestError
from cambox.sources.formats import IMAGE_SUFFIXES
from cambox.sources.labels import class_folders, read_labels_csv
from cambox.sources.samples import META_NAME
from cambox.sources.webdataset_io import TarWriter, base_plus_ext
from cambox.threads import grouped


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        shards, samples: written.
        unlabelled: samples without a ``.cls`` member.
        skipped: files that are hidden or not images.
    """

    shards: int
    samples: int
    unlabelled: int
    skipped: int


@dataclass(frozen=True)
class _Image:
    path: Path
    relative: str
    key: str


def pack(
    images_dir: Path,
    destination: Path,
    labels_csv: Path | None = None,
    samples_per_shard: int = 1000,
    on_sample: Callable[[], None] | None = None,
) -> PackReport:
    """Write the images of a folder as ``shard-000000.tar``, ``shard-000001.tar``, ...

    The same images and labels give the same bytes. The image files are stored as they are. No
    shard appears under its name before all of them are written.

    Args:
        images_dir: flat, or with folders. A sample's key is the path below it without the
            extension, dots turned into underscores.
        destination: a folder without shards; it is made if it is missing.
        labels_csv: columns ``image,class_index``; an image with several classes has several rows.
            Without it, where every image is in a folder directly below ``images_dir``, those
            folders are the classes, by their sorted names, and ``class_names.txt`` lists them.
        samples_per_shard: the last shard may hold fewer.
        on_sample: called after each sample.

    Raises:
        RequestError: nothing to pack, the destination holds shards, two images with one key, a
            name that can not be a key, or labels that do not fit the images.
    """
    if samples_per_shard < 1:
        raise RequestError(f"--samples-per-shard: {samples_per_shard} is too few; use 1 or more")
    if not images_dir.is_dir():
        raise RequestError(f"{images_dir}: not a folder; name the folder that holds the images")
    images, skipped = _find_images(images_dir, destination)
    names: Sequence[str] = ()
    if labels_csv is None:
        labels, names = class_folders(images_dir, destination, [i.relative for i in images])
    else:
        labels = read_labels_csv(labels_csv, [image.relative for image in images])
    _prepare(destination)
    if names:
        (destination / "class_names.txt").write_text("".join(f"{n}\n" for n in names), "utf-8")
    shards = _write_shards(destination, grouped(images, samples_per_shard), labels, on_sample)
    unlabelled = sum(image.relative not in labels for image in images)
    return PackReport(shards, len(images), unlabelled, skipped)


def _find_images(images_dir: Path, destination: Path) -> tuple[list[_Image], int]:
    skipped = 0
    found: dict[str, _Image] = {}
    output = {destination.resolve()} - {images_dir.resolve()}
    for path in _walk(images_dir, frozenset(), output):
        relative = path.relative_to(images_dir)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower().removeprefix(".") not in IMAGE_SUFFIXES:
            skipped += 1
            continue
        image = _Image(path, relative.as_posix(), _key(path, relative))
        if (other := found.setdefault(image.key, image)) is not image:
            raise RequestError(
                f"{other.path} and {path} would both have the key {image.key!r}; rename one"
            )
    if not found:
        raise RequestError(f"{images_dir}: no images ({', '.join(IMAGE_SUFFIXES)}) in the folder")
    return list(found.values()), skipped


def _walk(folder: Path, above: frozenset[Path], output: set[Path]) -> Iterator[Path]:
    """All files below a folder, through links as well: class folders often are links."""
    real = folder.resolve()
    if real in output:
        return
    if real in above:
        raise RequestError(f"{folder}: a link to a folder that it is in; remove the link")
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _walk(entry, above | {real}, output)
        else:
            yield entry


def _key(path: Path, relative: Path) -> str:
    key = relative.with_suffix("").as_posix().replace(".", "_")
    if not path.is_file():
        raise RequestError(f"{path}: a broken link; remove or restore it")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{str(path)!a}: the name is not UTF-8; rename it") from error
    # WebDataset's own reading of the name has to give the key back.
    if META_NAME.match(key) or base_plus_ext(f"{key}.jpg") != (key, "jpg"):
        raise RequestError(f"{path}: WebDataset would not find a sample of that name; rename it")
    return key


def _prepare(destination: Path) -> None:
    if destination.exists() and not destination.is_dir():
        raise RequestError(f"--to: {destination} is a file; name a folder")
    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.glob("shard-*.tar")):
        raise RequestError(
            f"--to: {destination} already holds shards; choose another folder or remove them"
        )
    for leftover in destination.glob(".shard-*.tar.tmp"):
        leftover.unlink()


def _write_shards(
    destination: Path,
    groups: Iterable[Sequence[_Image]],
    labels: Mapping[str, tuple[int, ...]],
    on_sample: Callable[[], None] | None,
) -> int:
    beside: dict[Path, Path] = {}
    try:
        for index, group in enumerate(groups):
            name = f"shard-{index:06d}.tar"
            path = destination / f".{name}.tmp"
            beside[path] = destination / name
            # Fixed times, owner and mode: the same images give the same bytes.
            with (
                path.open("wb") as file,
                TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as writer,
            ):
                for image in group:
                    writer.write(_sample(image, labels.get(image.relative)))
                    if on_sample is not None:
                        on_sample()
    except BaseException:
        for path in beside:
            path.unlink(missing_ok=True)
        raise
    for path, final in beside.items():
        path.rename(final)
    return len(beside)


def _sample(image: _Image, classes: tuple[int, ...] | None) -> dict[str, str | bytes]:
    sample: dict[str, str | bytes] = {
        "__key__": image.key,
        image.path.suffix.lower().removeprefix("."): image.path.read_bytes(),
    }
    if classes is not None:
        sample["cls"] = " ".join(map(str, classes)).encode()
    return sample
