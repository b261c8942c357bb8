"""What a published file says of itself: which shard and which recipe made it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

from cambox import __version__
from cambox.output.recipe import SCHEMA_VERSION, Recipe
from cambox.sources.shards import Shard

PREFIX = "cambox."
LIBRARIES = ("torch", "torchvision", "timm", "opencv-python-headless", "numpy", "pyarrow")


@functools.cache
def library_versions() -> Mapping[str, str]:
    """The versions of cambox and of the libraries that shape a file."""
    return {"cambox": __version__} | {name: version(name) for name in LIBRARIES}


@dataclass(frozen=True)
class Footer:
    """The ``cambox.*`` entries of a file's key-value metadata.

    Attributes:
        recipe: the resolved settings, as JSON.
        versions: of cambox and the libraries that made the file.
    """

    schema_version: int
    recipe: str
    recipe_digest: str
    shard: Shard
    classes: tuple[str, ...]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, recipe: Recipe, shard: Shard) -> Footer:
        """The footer of a file that this process makes."""
        return cls(
            SCHEMA_VERSION,
            recipe.settings,
            recipe.digest,
            shard,
            recipe.class_names,
            library_versions(),
        )

    def to_metadata(self) -> dict[bytes, bytes]:
        """As Parquet key-value metadata."""
        entries = {
            "schema_version": str(self.schema_version),
            "recipe": self.recipe,
            "recipe_digest": self.recipe_digest,
            "shard": json.dumps(asdict(self.shard)),
            "classes": json.dumps(self.classes),
            "versions": json.dumps(self.versions),
        }
        return {(PREFIX + key).encode(): value.encode() for key, value in entries.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes]) -> Footer:
        """Read the entries back.

        Raises:
            KeyError: the file was not made by cambox.
        """

        def entry(key: str) -> str:
            return metadata[(PREFIX + key).encode()].decode()

        return cls(
            int(entry("schema_version")),
            entry("recipe"),
            entry("recipe_digest"),
            Shard(**json.loads(entry("shard"))),
            tuple(json.loads(entry("classes"))),
            json.loads(entry("versions")),
        )
