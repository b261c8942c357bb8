"""An S3 server for the tests of this folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cambox.sources.pack import pack
from conftest import ConfigMaker
from s3_bucket import Bucket

NUMBERS = count()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    # moto logs every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto.get_host_and_port()
    moto.stop()


@pytest.fixture(scope="module")
def six(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures in six shards of two."""
    folder = tmp_path_factory.mktemp("six")
    pack(pictures, folder, pictures / "labels.csv", samples_per_shard=2)
    return folder


@pytest.fixture
def bucket(server: tuple[str, int], six: Path, make_config: ConfigMaker) -> Bucket:
    endpoint = "http://{}:{}".format(*server)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    name = f"bucket-{next(NUMBERS)}"
    client.create_bucket(Bucket=name)
    for path in six.iterdir():
        client.put_object(Bucket=name, Key=f"in/{path.name}", Body=path.read_bytes())
    return Bucket(name, endpoint, server, make_config, client)
