"""The ways a run can go wrong that a user can mend, and that it is told to end."""

from __future__ import annotations

from collections.abc import Sequence


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Names for a message: the first few, and how many more there are.

    >>> some_of(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shortened(text: str, most: int = 200) -> str:
    """A text for a message, which it must not fill.

    >>> shortened("a very long text", 10)
    'a very ...'
    """
    return text if len(text) <= most else f"{text[: most - 4]} ..."


class RequestError(Exception):
    """The request itself is wrong: a bad setting, a missing file, a model that cannot serve.

    The message is one line that names the setting or file and the remedy. Commands print it
    without a traceback and exit with 2.
    """

    exit_code = 2


class UnavailableError(RequestError):
    """The request may be right, and cannot be carried out now: a storage is down, another is at it.

    The same command may succeed later, so commands exit with 1.
    """

    exit_code = 1


class Terminated(KeyboardInterrupt):
    """SIGTERM was heard: the run ends as it does by Ctrl-C, but for its exit code."""

    def __str__(self) -> str:
        return "SIGTERM"


class ShardError(Exception):
    """One shard cannot be read whole, so nothing is published for it.

    Reading it again would give the same result (a cut tar, a repeated key). Errors of the
    storage itself are not of this kind: they stay ``OSError`` and are retried.
    """
