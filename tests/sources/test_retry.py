"""What is asked again, how often, and what is said of it."""

from __future__ import annotations

import errno
import logging
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec
import gcsfs.retry
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3fs.errors import translate_boto_error
from yarl import URL

from cambox.config import OutputSettings
from cambox.errors import ShardError
from cambox.output.footer import Recipe
from cambox.output.ledger import plan
from cambox.sources.retry import ATTEMPTS, StorageError, can_pass, from_storage, with_retries
from cambox.sources.shards import find_shards
from cambox.sources.storage import storage_failures


def s3(status: int, code: str) -> BaseException:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: BaseException = translate_boto_error(botocore.exceptions.ClientError(answer, "Get"))
    return error


def http(status: int) -> Exception:
    request = aiohttp.RequestInfo(URL("http://127.0.0.1"), "GET", {}, URL("http://127.0.0.1"))  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(request, (), status=status)


def cut() -> Exception:
    """As aiohttp says it of a body that ends early; the cause has the status 400."""
    error = aiohttp.ClientPayloadError("not completed")
    error.__cause__ = aiohttp.http_exceptions.ContentLengthError("not enough data")
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (s3(503, "SlowDown"), True),
        (s3(500, "InternalError"), True),
        (s3(400, "RequestTimeout"), True),
        (s3(500, "500"), True),
        (s3(404, "NoSuchKey"), False),
        (s3(403, "AccessDenied"), False),
        (s3(403, "ExpiredToken"), False),
        (s3(400, "InvalidArgument"), False),
        (s3(412, "PreconditionFailed"), False),
        (s3(501, "NotImplemented"), False),
        (http(503), True),
        (http(429), True),
        (http(400), False),
        (http(401), False),
        (cut(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), True),
        (gcsfs.retry.HttpError({"code": 502, "message": "bad gateway"}), True),
        (gcsfs.retry.HttpError({"code": 403, "message": "forbidden"}), False),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), True),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://127.0.0.1:9"), True),
        (botocore.exceptions.NoCredentialsError(), False),
        (botocore.exceptions.ParamValidationError(report="bad"), False),
        (ConnectionResetError("gone"), True),
        (TimeoutError(), True),
        (OSError(errno.EIO, "of a network disk"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError("the storage gave 5 bytes where it had listed 10"), True),
        (FileNotFoundError("a.tar"), False),
        (TypeError("unexpected option"), False),
        (ShardError("damaged"), False),
        (MemoryError(), False),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:50] if value not in (True, False) else "",
)
def test_only_the_storages_own_trouble_can_pass(error: BaseException, passes: bool) -> None:
    def raise_it() -> None:
        with storage_failures("s3://bucket/a.tar"):
            raise error

    with pytest.raises(BaseException) as caught:
        raise_it()
    assert can_pass(caught.value) is passes


def test_it_is_asked_a_few_times_and_each_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise ConnectionResetError("gone")
        return "bytes"

    assert from_storage("s3://bucket/a.tar", ask) == "bytes"
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 2
    assert messages[1].startswith("s3://bucket/a.tar: gone; attempt 2 of 4 failed, the next in ")


def test_the_last_failure_names_the_uri_and_is_not_tried_again_further_up() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise TimeoutError

    def shard() -> None:
        from_storage("s3://bucket/a.tar", ask)

    with pytest.raises(
        StorageError, match=r"^s3://bucket/a\.tar: TimeoutError; tried 4 times$"
    ) as caught:
        with_retries("s3://bucket/a.tar", shard, attempts=2)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert len(asked) == ATTEMPTS


def test_a_folder_that_can_not_be_listed_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a", "b", "c"):
        memory.pipe_file(f"/nights/{name}/0.tar", b"")
    honest = MemoryFileSystem.ls
    broken: list[str] = ["/nights/b"] * (ATTEMPTS - 1)

    def ls(self: MemoryFileSystem, path: str, detail: bool = True, **more: Any) -> Any:
        if path.rstrip("/") in broken:
            broken.pop()
            raise ConnectionResetError("gone")
        return honest(self, path, detail, **more)

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    for pattern in ("memory://nights/*/*.tar", "memory://nights/**/*.tar"):
        broken[:] = ["/nights/b"] * (ATTEMPTS - 1)
        assert len(find_shards([pattern])) == 3
        broken[:] = ["/nights/b"] * ATTEMPTS
        with pytest.raises(StorageError, match=r"memory:///nights/b.*tried 4 times"):
            find_shards([pattern])
        # What does not lie on the pattern's way is not asked for.
        broken[:] = ["/nights/b"] * ATTEMPTS
        assert len(find_shards(["memory://nights/a*/*.tar"])) == 1


def test_a_footer_that_can_not_be_read_is_not_a_damaged_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fsspec.filesystem("memory").pipe_file("/footers/0123456789abcdef/a.parquet", b"damaged")
    recipe = Recipe(digest="0123456789abcdef" * 4, settings="{}", class_names=())
    output = OutputSettings(uri="memory://footers")
    assert plan([], recipe, output).to_do == ()

    def refused(*_: object, **__: object) -> None:
        # Without a number, as s3fs raises it.
        raise PermissionError("The provided token has expired.")

    monkeypatch.setattr(MemoryFileSystem, "open", refused)
    with pytest.raises(PermissionError, match="expired"):
        plan([], recipe, output)
