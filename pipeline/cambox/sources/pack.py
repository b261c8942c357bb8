"""A folder of images, to WebDataset shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cambox.errors import RequestError, some_of
from cambox.sources.class_list import FILE_NAME, Labels, read_class_list, renumbered
from cambox.sources.formats import IMAGE_SUFFIXES
from cambox.sources.keys import META_NAME, readable
from cambox.sources.labels import (
    class_folders,
    named_classes,
    read_labels_csv,
    require_no_other_folders,
)
from cambox.sources.webdataset_io import TarWriter, base_plus_ext
from cambox.threads import grouped

Findings = dict[str, list[str]]
"""Names of files, by what there is to say of them."""


@dataclass(frozen=True)
class PackReport:
    """What was packed, and what a person should know of the rest.

    Attributes:
        shards, samples: written.
        unlabelled: samples without a ``.cls`` member.
        skipped: files that are hidden or not images, by extension.
        faults: images that are left out or have no label, by what is wrong and the remedy.
        notes: what may be as it should be.
    """

    shards: int
    samples: int
    unlabelled: int
    skipped: Findings
    faults: Findings
    notes: Findings


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
    class_names: Path | None = None,
) -> PackReport:
    """Write the images of a folder as ``shard-000000.tar``, ``shard-000001.tar``, ...

    The same images and labels give the same bytes. The image files are stored as they are. No
    shard appears under its name before all of them are written. An image that cannot be packed
    does not end it: the report names it.

    Args:
        images_dir: flat, or with folders. A sample's key is the path below it without the
            extension, dots turned into underscores.
        destination: a folder without shards; it is made if it is missing.
        labels_csv: columns ``image,class_index`` or ``image,class_name``; an image with several
            classes has several rows. Without it, where most images are in a folder directly below
            ``images_dir``, those folders are the classes, by their sorted names. Where classes
            have names, ``class_names.txt`` lists them.
        samples_per_shard: the last shard may hold fewer.
        on_sample: called after each sample.
        class_names: a file with a name a line, whose lines the labels are to count, such as those
            of a classifier that knows more classes than there are images of.

    Raises:
        RequestError: nothing to pack, the destination holds shards or cannot be written, or the
            labels are not such labels.
    """
    if samples_per_shard < 1:
        raise RequestError(f"--samples-per-shard: {samples_per_shard} is too few; use 1 or more")
    if not images_dir.is_dir():
        raise RequestError(f"{images_dir}: not a folder; name the folder that holds the images")
    skipped, faults, notes = (defaultdict[str, list[str]](list) for _ in range(3))
    images = _find_images(images_dir, destination, skipped, faults)
    paths = [image.relative for image in images]
    labels, names = _labels(images_dir, destination, labels_csv, paths, faults, notes)
    if class_names is not None:
        known = read_class_list("--class-names", str(class_names))
        labels, names = renumbered(labels, names, known), known
    try:
        _prepare(destination)
        if names:
            text = "".join(f"{name}\n" for name in names)
            (destination / FILE_NAME).write_text(text, "utf-8")
        groups = grouped(images, samples_per_shard)
        shards, packed = _write_shards(destination, groups, labels, faults, on_sample)
    except OSError as error:
        raise RequestError(
            f"--to: {destination} cannot be written ({error.strerror}); choose another folder"
        ) from error
    unlabelled = sum(path not in labels for path in packed)
    return PackReport(shards, len(packed), unlabelled, dict(skipped), dict(faults), dict(notes))


def _labels(
    images_dir: Path,
    destination: Path,
    labels_csv: Path | None,
    paths: Sequence[str],
    faults: Findings,
    notes: Findings,
) -> tuple[Labels, Sequence[str]]:
    """The classes by image, and their names where they have any."""
    if labels_csv is not None:
        labels, absent = read_labels_csv(labels_csv, paths)
        if absent:
            notes[f"are in {labels_csv} and not in {images_dir}"] += absent
        if without := [path for path in paths if path not in labels]:
            faults[f"have no line in {labels_csv} and so no label; add one"] += without
        return labels, named_classes(labels_csv)
    labels, names = class_folders(paths)
    if names:
        require_no_other_folders(images_dir, destination, names)
    if without := [path for path in paths if path not in labels]:
        if names:
            faults["are not directly in a class folder and have no label; move them"] += without
        elif any("/" in path for path in paths):
            notes["are not directly in a folder, so folders are not taken for classes"] += [
                path for path in paths if path.count("/") != 1
            ]
    return labels, names


def _find_images(
    images_dir: Path, destination: Path, skipped: Findings, faults: Findings
) -> list[_Image]:
    found: dict[str, _Image] = {}
    output = {destination.resolve()} - {images_dir.resolve()}
    for path in _walk(images_dir, frozenset(), output, faults):
        relative = path.relative_to(images_dir)
        # A name that is not UTF-8 has to be printed all the same.
        name = readable(relative.as_posix())
        key = relative.with_suffix("").as_posix().replace(".", "_")
        suffix = path.suffix.lower()
        if any(part.startswith(".") for part in relative.parts):
            skipped["hidden"].append(name)
        elif suffix.removeprefix(".") not in IMAGE_SUFFIXES:
            skipped[suffix or "without extension"].append(name)
        elif fault := _fault(path, name, relative, key):
            faults[fault].append(name)
        elif key in found:
            faults["have the key of another and are left out; rename them"].append(
                f"{name} (beside {found[key].relative})"
            )
        else:
            found[key] = _Image(path, name, key)
    if not found:
        others = some_of([f"{len(names)} {what}" for what, names in (skipped | faults).items()])
        raise RequestError(
            f"{images_dir}: no images ({', '.join(IMAGE_SUFFIXES)}) in the folder, but "
            f"{others or 'nothing'}"
        )
    return list(found.values())


def _walk(
    folder: Path, above: frozenset[Path], output: set[Path], faults: Findings
) -> Iterator[Path]:
    """All files below a folder, through links as well: class folders often are links."""
    real = folder.resolve()
    if real in output:
        return
    if real in above:
        faults["are links to a folder that they are in; remove them"].append(str(folder))
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        faults[f"cannot be listed ({error.strerror})"].append(str(folder))
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry, above | {real}, output, faults)
        else:
            yield entry


def _fault(path: Path, name: str, relative: Path, key: str) -> str | None:
    """Why a file makes no sample, None where it does."""
    if not path.is_file():
        return "are broken links and left out; remove or restore them"
    if name != relative.as_posix():
        return "have names that are not UTF-8 and are left out; rename them"
    # WebDataset's own reading of the name has to give the key back.
    if META_NAME.match(key) or base_plus_ext(f"{key}.jpg") != (key, "jpg"):
        return "have names that WebDataset keeps for itself and are left out; rename them"
    return None


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
    faults: Findings,
    on_sample: Callable[[], None] | None,
) -> tuple[int, list[str]]:
    """Write them; how many there are, and the images that are in them."""
    beside: dict[Path, Path] = {}
    packed: list[str] = []
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
                    try:
                        data = image.path.read_bytes()
                    except OSError as error:
                        what = f"cannot be read ({error.strerror}) and are left out"
                        faults[what].append(image.relative)
                        continue
                    writer.write(_sample(image, data, labels.get(image.relative)))
                    packed.append(image.relative)
                    if on_sample is not None:
                        on_sample()
    except BaseException:
        for path in beside:
            path.unlink(missing_ok=True)
        raise
    for path, final in beside.items():
        path.rename(final)
    return len(beside), packed


def _sample(image: _Image, data: bytes, classes: tuple[int, ...] | None) -> dict[str, str | bytes]:
    sample: dict[str, str | bytes] = {
        "__key__": image.key,
        image.path.suffix.lower().removeprefix("."): data,
    }
    if classes is not None:
        sample["cls"] = " ".join(map(str, classes)).encode()
    return sample
