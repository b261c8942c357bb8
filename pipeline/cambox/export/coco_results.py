"""COCO's *results*: ``results.json``, a list of boxes with scores, beside a truth.

The ids are those of the dataset that ``--truth`` names, whose images are known by their file names
and whose categories by the names of the classes. Without one, ``dataset.json`` has the images and
the categories and no annotation: guesses stay apart from whatever truth comes to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cambox.boxes import Boxes
from cambox.console import counted
from cambox.errors import RequestError
from cambox.export.coco import beginning, boxes_with_scores, image_entry
from cambox.export.writer import Exported, JsonEntries, Writer
from cambox.review.truth import Truth, read_truth_text
from cambox.review.truth_files import ids_of_coco
from cambox.training.selection import ClassList

_NO_IMAGE = "images that the truth does not have are left out"
_NO_CLASS = "boxes of classes that the truth does not have are left out"


@dataclass(frozen=True)
class TruthIds:
    """The ids of a truth.

    Attributes:
        names: of its images, by which samples are found.
        images: by the truth's own file names.
        categories: by ``class_id`` of the recipe.
    """

    names: Truth
    images: Mapping[str, int | str]
    categories: Mapping[int, int]

    @classmethod
    def read(cls, uri: str, class_names: tuple[str, ...]) -> TruthIds:
        """Read them from a COCO dataset.

        Raises:
            RequestError: it is missing or none, or no category has the name of a class.
        """
        images, categories = ids_of_coco(uri, read_truth_text(uri), class_names)
        return cls(Truth(dict.fromkeys(images, Boxes.of(()))), images, categories)

    def image_id(self, key: str) -> int | str | None:
        """Of a sample; None where the truth does not have it."""
        name = self.names.name_of(key)
        return None if name is None else self.images[name]


class CocoResultsWriter(Writer):
    """Writes box by box."""

    def __init__(self, folder: Path, classes: ClassList, truth: TruthIds | None) -> None:
        self.class_ids = classes.ids
        self.truth = truth
        self.dataset: JsonEntries | None = None
        if truth is None:
            end = '],\n"annotations": []}'
            self.dataset = JsonEntries(folder / "dataset.json", beginning(classes), end)
        self.results = JsonEntries(folder / "results.json", "[", "]")
        self.left_out: Counter[str] = Counter()

    def add(self, exported: Exported) -> None:
        """Write one image."""
        if self.dataset is not None:
            self.dataset.add(image_entry(exported))
        image_id = self._image_id(exported)
        if image_id is None:
            self.left_out[_NO_IMAGE] += 1
            return
        for number, bbox, score in boxes_with_scores(exported):
            category = self._category_id(number)
            if category is None:
                self.left_out[_NO_CLASS] += 1
                continue
            entry = {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score}
            self.results.add(entry)

    def close(self) -> None:
        """All is added.

        Raises:
            RequestError: nothing of the output is in the truth.
        """
        if not self.results.count and self.truth is not None:
            raise RequestError(
                f"--truth: none of the {counted(self.left_out[_NO_IMAGE], 'image')} is in it under "
                "its file name, or none of their classes; name the truth of these images"
            )
        self.results.close()
        if self.dataset is not None:
            self.dataset.close()

    def notes(self) -> tuple[str, ...]:
        """What the truth does not have."""
        return tuple(f"{count:,} {what}" for what, count in self.left_out.items())

    def _image_id(self, exported: Exported) -> int | str | None:
        image = exported.image
        return image.image_id if self.truth is None else self.truth.image_id(image.key)

    def _category_id(self, number: int) -> int | None:
        if self.truth is None:
            return number + 1
        return self.truth.categories.get(self.class_ids[number])
