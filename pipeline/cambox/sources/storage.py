"""The one place that opens storage: which URIs are allowed, what they are called, how they open."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec import AbstractFileSystem

from cambox.errors import RequestError, ShardError

# Each allowed protocol and the package that drives it. An allow-list, because fsspec also knows
# protocols that run commands or unpickle what they read (`reference://`, `ssh://`, caches, ...).
DRIVERS: Mapping[str, str] = {
    "file": "fsspec",
    "local": "fsspec",
    "memory": "fsspec",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "hf": "huggingface_hub",
    "oci": "ocifs",
    "hdfs": "pyarrow",
    "webhdfs": "requests",
}
LOCAL = ("file", "local")
HTTP = ("http", "https")
_S3 = ("s3", "s3a")
_TIMEOUTS: Mapping[str, float | None] = {"total": None, "sock_connect": 30, "sock_read": 60}
_SYNONYMS: Mapping[str, str] = {"s3a": "s3", "gcs": "gs"}

# What the stores call a name for the content itself, the strongest first: a content hash outlives
# a change of metadata, an ETag need not.
_CONTENT_NAMES = ("sha256", "blob_id", "md5Hash", "Content-MD5", "Digest", "ETag", "etag", "md5")
_TIMES = ("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "modificationTime")


def protocol_of(uri: str) -> str:
    """The fsspec protocol of a URI, ``"file"`` for a plain path.

    Raises:
        RequestError: the URI is of a kind that is not allowed.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?", uri)
    if "::" in uri:
        problem = "chained URLs are not allowed"
    elif scheme is None:
        return "file"
    elif scheme[2] is None:
        problem = f"'{scheme[1]}:' is not a storage protocol"
    elif scheme[1].lower() not in DRIVERS:
        problem = f"the protocol '{scheme[1]}://' is not allowed"
    else:
        return scheme[1].lower()
    raise RequestError(
        f"{uri!r}: {problem}, because opening data must never run a command or unpickle anything; "
        f"use a path (./ before a name with a colon) or one of {', '.join(DRIVERS)} with ://"
    )


def locate(
    uri: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[AbstractFileSystem, str]:
    """The file system of a URI, and the path on it (absolute for a local one).

    Raises:
        RequestError: the URI is of a kind that is not allowed, or its driver is not installed.
    """
    protocol = protocol_of(uri)
    options = dict(storage_options or {})
    if protocol in _S3:
        # botocore would ask five times for each of the five times that s3fs does, and `retry` has
        # its own; a storage that stays away must not be waited for all of these times.
        retries = {"retries": {"total_max_attempts": 2}}
        options["config_kwargs"] = retries | dict(options.get("config_kwargs") or {})
    if protocol in HTTP:
        options["client_kwargs"] = _patient(options.get("client_kwargs") or {})
    if protocol in LOCAL:
        return fsspec.filesystem("file", **options), _local_path(uri)
    try:
        filesystem, path = fsspec.core.url_to_fs(canonical_uri(uri), **options)
    except ImportError as error:
        raise RequestError(
            f"{uri!r}: '{protocol}://' needs a package that is not installed; "
            f"run: pip install {DRIVERS[protocol]}"
        ) from error
    return filesystem, path


def _patient(client: Mapping[str, Any]) -> dict[str, Any]:
    """What aiohttp's client is made with: a server that is silent is given up, and no slow reader.

    Its own limit is 300 s for all of a shard, which computing alone may take.

    Args:
        client: of the user; a ``timeout`` is a mapping of aiohttp's names to seconds, or the total.
    """
    from aiohttp import ClientTimeout

    given = client.get("timeout", {})
    try:
        if isinstance(given, (int, float)):
            given = {"total": given}
        if isinstance(given, Mapping):
            given = ClientTimeout(**{**_TIMEOUTS, **given})
    except TypeError as error:
        raise RequestError(
            f"storage_options.client_kwargs.timeout: {error}; use total, connect, sock_connect and "
            "sock_read, in seconds"
        ) from error
    return {**client, "timeout": given}


def canonical_uri(uri: str) -> str:
    """One name for one place: an absolute path, or the full URL for anything that is not local.

    Raises:
        RequestError: the URI is of a kind that is not allowed.
    """
    protocol = protocol_of(uri)
    if protocol in LOCAL:
        return _local_path(uri)
    rest = uri.partition("://")[2]
    if protocol == "memory":
        rest = rest.lstrip("/")
    return f"{_SYNONYMS.get(protocol, protocol)}://{rest}"


def _local_path(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    path = Path(rest) if separator and scheme.lower() in LOCAL else Path(uri)
    if uri.startswith("~/"):
        path = path.expanduser()
    # Not resolve(): a link is a name of its own, and may point elsewhere tomorrow.
    return re.sub(r"^/+", "/", os.path.normpath(path.absolute()))


def fingerprint(info: Mapping[str, Any]) -> str:
    """What tells one content from another without reading it, from the store's description.

    The size in bytes with the store's checksum or ETag; where there is none, with the
    modification time (nanoseconds for local files). A server that tells neither leaves the size.
    """
    size = f"size={info.get('size')}"
    for name in _CONTENT_NAMES:
        if info.get(name):
            return f"{size} {name.lower()}={str(info[name]).strip(chr(34))}"
    for name in (*_TIMES, "created"):
        if info.get(name) is not None:
            return f"{size} modified={_moment(info[name])}"
    return size


def _moment(value: object) -> str:
    if isinstance(value, float):
        return f"{round(value * 1e9)}ns"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def modified_at(info: Mapping[str, Any]) -> datetime | None:
    """When a file was last written, from the store's description; None where it does not say."""
    value = next((info[name] for name in (*_TIMES, "created") if info.get(name) is not None), None)
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def open_stream(uri: str, storage_options: Mapping[str, Any] | None = None) -> BinaryIO:
    """Open a URI to be read once from its first byte to its last.

    Raises:
        RequestError: the URI is of a kind that is not allowed.
        OSError: the storage failed.
    """
    filesystem, path = locate(uri, storage_options)
    with storage_failures(uri):
        if protocol_of(uri) in HTTP:
            # One request for the whole file: many servers do not serve ranges.
            return cast(BinaryIO, filesystem.open(path, "rb", block_size=0))
        return cast(BinaryIO, filesystem.open(path, "rb"))


@contextmanager
def storage_failures(uri: str) -> Iterator[None]:
    """Turn whatever a driver raises (its HTTP library's own errors) into an ``OSError``."""
    try:
        yield
    except FileNotFoundError as error:
        # The http driver says so of every failure; a server that is down has not lost the file.
        cause = error.__cause__
        if not uri.lower().startswith("http") or cause is None:
            raise
        if getattr(cause, "status", 0) == 404:
            raise
        raise OSError(f"{uri}: the storage failed: {type(cause).__name__}: {cause}") from cause
    except (OSError, MemoryError, RequestError, ShardError):
        raise
    except Exception as error:
        raise OSError(f"{uri}: the storage failed: {type(error).__name__}: {error}") from error
