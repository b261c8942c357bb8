"""True boxes, by the image that they are of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from cambox.boxes import Boxes
from cambox.errors import RequestError
from cambox.review.truth_files import UNKNOWN_CLASS, from_coco, from_csv
from cambox.sources.keys import one_spelling
from cambox.sources.retry import from_storage, read_whole
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

    @property
    def says_classes(self) -> bool:
        """Whether the file gives its boxes classes; it does so for all or for none."""
        return any((boxes.class_id != UNKNOWN_CLASS).any() for boxes in self.images.values())

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """By a sample's key in its one spelling: the image's names.

        They stand with and without the extension, and with ``_`` for dots, as pack writes them.
        """
        names = defaultdict(list)
        for name in self.images:
            path = PurePosixPath(one_spelling(name))
            plain = {str(path), str(path.with_suffix("")) if path.name else str(path)}
            for key in plain | {key.replace(".", "_") for key in plain}:
                names[key].append(name)
        return names

    @property
    def keys(self) -> Sequence[str]:
        """All sample keys that some image may have, in their one spelling."""
        return list(self._names)

    def name_of(self, key: str) -> str | None:
        """The image that a sample's key stands for, None where it is none of these.

        Raises:
            RequestError: two images of the file would have this key.
        """
        names = self._names.get(one_spelling(key), [])
        if len(names) > 1:
            raise RequestError(
                f"--truth: {names[0]!r} and {names[1]!r} both stand for the sample {key!r}; "
                "give each image one name"
            )
        return names[0] if names else None


def require_truth(uri: str) -> None:
    """See that there is such a file, before the work that it is for.

    Raises:
        RequestError: there is none, or its storage does not say.
    """
    filesystem, path = locate(uri)
    with _readable(uri):
        info = from_storage(uri, lambda: filesystem.info(path))
    if info["type"] == "directory":
        raise RequestError(f"--truth: {uri} is a folder; name the file of true boxes in it")


def read_truth(uri: str, class_names: Sequence[str] | None) -> Truth:
    """Read true boxes from a path or URL.

    Args:
        uri: a file that ends in ``.json`` is COCO's format, any other a CSV with the columns
            image, x_min, y_min, x_max, y_max and perhaps class_index.
        class_names: of the classifier, by class index; None where it is not loaded yet, so all
            but the classes is checked.

    Raises:
        RequestError: the file is missing or of neither format, or a box or class is impossible.
    """
    text = read_truth_text(uri)
    read = from_coco if uri.lower().endswith(".json") else from_csv
    listed, remarks = read(uri, text, class_names)
    images = {
        name: Boxes.of([corners for corners, _ in boxes], class_id=[which for _, which in boxes])
        for name, boxes in listed.items()
    }
    every = Boxes.joined(images.values())
    if not len(every):
        raise RequestError(
            f"--truth: {uri} holds no box{''.join(f'; {remark}' for remark in remarks)}"
        )
    if every.corners.max() <= 1:
        raise RequestError(
            f"--truth: no box of {uri} reaches beyond 1, so these are shares of the image; "
            "give pixels of the upright image"
        )
    return Truth(images, tuple(remarks))


def read_truth_text(uri: str) -> str:
    """The text of a truth file.

    Raises:
        RequestError: it is missing or no text.
    """
    with _readable(uri):
        return read_whole(uri).decode("utf-8-sig")


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise RequestError(f"--truth: {uri} does not exist; correct the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--truth: {uri} cannot be read: {error}") from error
