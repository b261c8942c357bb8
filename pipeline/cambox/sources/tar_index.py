"""Where in a tar archive each sample's image lies, for reading any of them at once."""

from __future__ import annotations

import tarfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cambox.errors import ShardError
from cambox.sources.images import image_suffix
from cambox.sources.retry import from_storage
from cambox.sources.samples import key_and_suffix
from cambox.sources.storage import locate


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in a file."""

    offset: int
    size: int


def index_images(
    uri: str, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Extent | None]:
    """The place of each sample's image, by key, in the order of the archive.

    Reads headers only and trusts them: whether the archive is whole was seen when it was
    annotated, and has to be compared with that by whoever uses the index.

    Args:
        uri: an archive that is not compressed.

    Returns:
        None for a sample without an image.

    Raises:
        ShardError: it is compressed, or no tar archive.
        OSError: the storage failed.
    """
    filesystem, path = locate(uri, storage_options)
    samples: dict[str, dict[str, Extent]] = defaultdict(dict)

    def scan() -> None:
        samples.clear()
        try:
            with (
                filesystem.open(path, "rb") as file,
                tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive,
            ):
                for member in archive:
                    found = key_and_suffix(member.name) if member.isreg() else None
                    if found is not None:
                        key, suffix = found
                        samples[key][suffix] = Extent(member.offset_data, member.size)
        except tarfile.TarError as error:
            raise ShardError(
                f"{uri}: {error}; only an uncompressed tar can be read in any order"
            ) from error

    from_storage(uri, scan)
    return {
        key: None if (suffix := image_suffix(members)) is None else members[suffix]
        for key, members in samples.items()
    }
