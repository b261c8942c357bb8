"""A bucket with shards on a real S3 server on loopback."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from cambox.config import Config
from conftest import ConfigMaker


def options(endpoint: str, **more: object) -> dict[str, Any]:
    """As a person writes them into a configuration."""
    client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    return {"key": "test", "secret": "test", "client_kwargs": client, **more}


@dataclass
class Bucket:
    """A bucket with six shards below ``in/``, on a server that tests may put faults before."""

    name: str
    endpoint: str
    server: tuple[str, int]
    make_config: ConfigMaker
    client: Any = field(repr=False)

    def config(self, storage: dict[str, Any] | None = None, *overrides: str) -> Config:
        given = yaml.safe_dump(
            storage or options(self.endpoint), default_flow_style=True, width=999
        )
        return self.make_config(
            f"input.shards=s3://{self.name}/in/*.tar",
            f"input.storage_options={given}",
            f"output.uri=s3://{self.name}/out",
            f"output.storage_options={given}",
            *overrides,
        )

    def objects(self, prefix: str) -> dict[str, tuple[str, Any]]:
        """ETag and time of each object, by key."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in listed}

    def published(self, prefix: str = "out/") -> dict[str, tuple[str, Any]]:
        """Of these, the files of shards."""
        objects = self.objects(prefix)
        return {key: what for key, what in objects.items() if key.endswith(".parquet")}

    def rows(self, prefix: str = "out/") -> list[tuple[str, dict[str, Any]]]:
        """What is published below a prefix."""
        bodies = [
            self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            for key in self.published(prefix)
        ]
        tables = [pq.read_table(io.BytesIO(body)) for body in bodies]
        return named(row for table in tables for row in table.to_pylist())


def named(rows: Iterable[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The rows without the shard's place, each after its name and the sample's key."""
    return [(f"{Path(row.pop('shard')).name} {row['key']}", row) for row in rows]


def quick(endpoint: str) -> dict[str, Any]:
    """Without botocore's own attempts and their pauses: every 500 is for us to deal with."""
    return options(endpoint, config_kwargs={"retries": {"total_max_attempts": 1}})
