"""A recipe's folder, opened for training: its files, the shards they belong to, the classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from fsspec import AbstractFileSystem

from cambox.output.reading import (
    PublishedFile,
    published_files,
    published_recipe,
    read_file,
)
from cambox.sources.storage import locate
from cambox.training.labelled import COLUMNS, LabelledImages, labelled_images
from cambox.training.selection import ClassList, Selection


@dataclass(frozen=True)
class TrainingSet:
    """The published files that a selection is made of.

    It holds no open file, so it may be pickled and survives a fork.

    Attributes:
        files: sorted by path.
        first_ids: the ``image_id`` of each file's first row.
        max_pixels: of the largest image that the recipe decodes.
    """

    uri: str
    files: tuple[PublishedFile, ...]
    first_ids: tuple[int, ...]
    selection: Selection
    classes: ClassList
    recipe_digest: str
    max_pixels: int
    storage_options: Mapping[str, Any] | None

    @classmethod
    def open(
        cls,
        output: str,
        selection: Selection,
        storage_options: Mapping[str, Any] | None = None,
    ) -> TrainingSet:
        """Read the footers of an output.

        Args:
            output: a recipe's folder, or an output that holds one recipe.

        Raises:
            RequestError: there is no such output, a file in it is damaged, or the recipe has not
                the classes that are asked for.
        """
        filesystem, folder = published_recipe(output, storage_options)
        footer, files = published_files(filesystem, folder)
        return cls(
            folder.uri,
            tuple(files),
            tuple(accumulate((file.rows for file in files[:-1]), initial=0)),
            selection,
            ClassList.of(footer.classes, selection.classes),
            footer.recipe_digest,
            int(json.loads(footer.recipe)["input"]["max_pixels"]),
            storage_options,
        )

    @property
    def filesystem(self) -> AbstractFileSystem:
        """Of the output; found anew in each process."""
        return locate(self.uri, self.storage_options)[0]

    def read(self, index: int) -> Iterator[LabelledImages]:
        """What the selection takes of one file, some rows at a time.

        Raises:
            RequestError: the file is damaged.
        """
        file, first_id = self.files[index], self.first_ids[index]
        for batch in read_file(self.filesystem, file, COLUMNS):
            yield labelled_images(batch, file.shard.uri, first_id, self.selection, self.classes)
            first_id += batch.num_rows
