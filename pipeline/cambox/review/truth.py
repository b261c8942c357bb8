"""True boxes from a file: CSV, or COCO JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from cambox.boxes import Boxes
from cambox.errors import RequestError
from cambox.review.truth_formats import UNKNOWN_CLASS, from_coco, from_csv
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate


@dataclass(frozen=True)
class Truth:
    """A file's true boxes.

    Attributes:
        images: by the name that the file gives them: pixels of the upright image, perhaps none.
        remarks: what was left out, and how classes were read.
    """

    images: Mapping[str, Boxes]
    remarks: tuple[str, ...] = ()
    _names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list), repr=False)

    def __post_init__(self) -> None:
        for name in self.images:
            for key in possible_keys(name):
                self._names[key].append(name)

    @property
    def says_classes(self) -> bool:
        """Whether the file gives its boxes classes; it does so for all or for none."""
        return any((boxes.class_id != UNKNOWN_CLASS).any() for boxes in self.images.values())

    @property
    def keys(self) -> Sequence[str]:
        """All sample keys that some image may have."""
        return list(self._names)

    def name_of(self, key: str) -> str | None:
        """The image that a sample's key stands for, None where it is none of these.

        Raises:
            RequestError: two images of the file would have this key.
        """
        names = self._names.get(key, [])
        if len(names) > 1:
            raise RequestError(
                f"--truth: {names[0]!r} and {names[1]!r} both stand for the sample {key!r}; "
                "give each image one name"
            )
        return names[0] if names else None


def possible_keys(image: str) -> set[str]:
    """The sample keys that an image's name may stand for.

    With and without its extension; and with its dots as underscores, as ``cambox pack`` writes
    them.
    """
    path = PurePosixPath(image)
    plain = {str(path), str(path.with_suffix("")) if path.name else str(path)}
    return plain | {key.replace(".", "_") for key in plain}


def read_truth(uri: str, class_names: Sequence[str]) -> Truth:
    """Read true boxes from a path or URL.

    Args:
        uri: a file that ends in ``.json`` is COCO's format, any other a CSV with the columns
            image, x_min, y_min, x_max, y_max and perhaps class_index.
        class_names: of the classifier, by class index.

    Raises:
        RequestError: the file is missing or of neither format, or a box or class is impossible.
    """
    filesystem, path = locate(uri)
    try:
        data = from_storage(uri, lambda: filesystem.cat_file(path))
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RequestError(f"--truth: {uri} does not exist; correct the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--truth: {uri} cannot be read: {error}") from error
    read = from_coco if uri.lower().endswith(".json") else from_csv
    images, remarks = read(uri, text, class_names)
    every = Boxes.joined(images.values())
    if not len(every):
        raise RequestError(f"--truth: {uri} holds no box")
    if every.corners.max() <= 1:
        raise RequestError(
            f"--truth: no box of {uri} reaches beyond 1, so these are shares of the image; "
            "give pixels of the upright image"
        )
    return Truth(images, remarks)
