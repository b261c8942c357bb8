"""Asking a storage again, where asking again can help."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from cambox.errors import RequestError, UnavailableError
from cambox.sources.signed import unsigned
from cambox.sources.storage import locate, storage_failures

Answer = TypeVar("Answer")

LOG = logging.getLogger(__name__)

# The drivers of S3 and Google ask again themselves, for seconds; this is for what lasts longer,
# and for those that do not. The pauses are 1, 2 and 4 s, each with up to a second more, so that
# workers who failed together do not come back together.
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0

# 4xx is the request's own fault, but for: request timeout, too early, too many requests.
_PASSING_STATUSES = (408, 425, 429)
# 5xx that stay: not implemented, HTTP version not supported.
_LASTING_STATUSES = (501, 505)
# S3's names of what passes, under a status that says otherwise (400) or none.
_PASSING_CODES = (
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
)
_PASSING_NUMBERS = frozenset(
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "EINTR", "EIO", "EPIPE", "EREMOTEIO", "ESTALE", "ETIMEDOUT"),
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETDOWN", "ENETRESET"),
        "ENETUNREACH",
    )
    if hasattr(errno, name)
)
# By name, because importing every driver costs seconds that a local run need not spend: a
# connection that failed, timed out or was cut, as botocore, aiohttp, Google and Azure say it.
_PASSING_NAMES = frozenset(
    (
        *("ConnectionError", "HTTPClientError", "IncompleteReadError", "ResponseParserError"),
        *("ClientConnectionError", "ClientPayloadError"),
        *("ChecksumError", "TransportError", "ServiceRequestError", "ServiceResponseError"),
    )
)
_LASTING = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class StorageError(OSError):
    """The storage failed as often as it was asked; the message names the URI."""


def with_retries(uri: str, fn: Callable[[], Answer], attempts: int = ATTEMPTS) -> Answer:
    """Do something that asks a storage, again after a failure that can pass.

    Each further attempt is logged as a warning. What a driver raises has to be an ``OSError``
    already (``storage_failures``); ``from_storage`` sees to that.

    Args:
        uri: what is asked for, for the messages.
        fn: has to be safe to be done again from its start.
        attempts: how often in all.

    Raises:
        StorageError: every attempt failed; the last failure is its cause.
        OSError: of a kind that asking again does not change (not there, not allowed, disk full).
    """

    def note(state: RetryCallState) -> None:
        assert state.outcome is not None
        LOG.warning(
            "%s; attempt %d of %d failed, the next in %.1f s",
            _named(uri, state.outcome.exception()),
            *(state.attempt_number, attempts, state.upcoming_sleep),
        )

    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential_jitter(
            FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, jitter=FIRST_PAUSE_SECONDS
        ),
        retry=retry_if_exception(can_pass),
        before_sleep=note,
    )
    try:
        return retrying(fn)
    except RetryError as error:
        last = error.last_attempt.exception()
        raise StorageError(f"{_named(uri, last)}; tried {attempts} times") from last


def from_storage(uri: str, fn: Callable[[], Answer]) -> Answer:
    """Ask a driver, again after a failure that can pass; all it raises becomes an ``OSError``.

    Raises:
        StorageError, OSError: as ``with_retries`` does.
    """

    def ask() -> Answer:
        with storage_failures(uri):
            return fn()

    return with_retries(uri, ask)


def read_whole(uri: str, storage_options: Mapping[str, Any] | None = None) -> bytes:
    """All bytes of a file.

    It is one request, so that each attempt can fail in one place only, and what is read is of one
    state of the file: a driver left to itself asks for the size first, and then for the parts.

    Raises:
        StorageError, OSError: as ``with_retries`` does.
    """
    filesystem, path = locate(uri, storage_options)
    try:
        data: bytes = from_storage(uri, lambda: filesystem.cat_file(path, start=0))
    except OSError as error:
        # A file without a byte has no first one.
        if http_status(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        raise
    return data


@contextmanager
def as_request(what: str) -> Iterator[None]:
    """What a storage fails with, as the one line that a command ends with.

    Args:
        what: cannot be done.

    Raises:
        UnavailableError: the storage was down, and may be up again later.
        RequestError: asking again would change nothing.
    """
    try:
        yield
    except OSError as error:
        down = isinstance(error, StorageError) or can_pass(error)
        raise (UnavailableError if down else RequestError)(f"{what}: {error}") from error


def can_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: the storage's trouble, not the request's."""
    # Those of the last kind have been tried again already, further down.
    if not isinstance(error, OSError) or isinstance(error, (*_LASTING, StorageError)):
        return False
    causes = list(_causes(error))
    for cause in causes:
        status, code = _status(cause)
        # The name before the status: below aiohttp's word for a body that was cut is a 400.
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & _PASSING_NAMES or code in _PASSING_CODES:
            return True
        if status is not None:
            return status in _PASSING_STATUSES or (
                500 <= status < 600 and status not in _LASTING_STATUSES
            )
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if error.errno is not None:
        return error.errno in _PASSING_NUMBERS
    # Our own word for a stream that ended early has no cause; a driver's error of no known kind
    # (bad options, no credentials) would be the same again.
    return len(causes) == 1


def http_status(error: BaseException) -> int | None:
    """The status of a server's answer that an error is about, such as 412; None where none is."""
    statuses = (_status(cause)[0] for cause in _causes(error))
    return next((status for status in statuses if status is not None), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> tuple[int | None, str | None]:
    """The HTTP status and the store's own code for it, where the error is an answer of a server."""
    # botocore has a mapping, requests an object; others have the number on the error itself.
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return _number(status), response.get("Error", {}).get("Code")
    for holder in (error, response):
        for name in ("status", "status_code", "code"):
            status = _number(getattr(holder, name, None))
            if status is not None:
                return status, None
    return None, None


def _number(status: object) -> int | None:
    # aiohttp has 0 where there was no answer.
    return status if isinstance(status, int) and status >= 100 else None


def _named(uri: str, error: BaseException | None) -> str:
    """An error in one line that names what was asked for."""
    # Drivers name the URL that they asked for, with its signature.
    uri, text = unsigned(uri), unsigned(" ".join(str(error).split())) or type(error).__name__
    return text if uri in text else f"{uri}: {text}"
