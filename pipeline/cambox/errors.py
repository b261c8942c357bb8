"""The two ways a run can go wrong that a user can mend."""

from __future__ import annotations


class RequestError(Exception):
    """The request itself is wrong: a bad setting, a missing file, a model that cannot serve.

    The message is one line that names the setting or file and the remedy. Commands print it
    without a traceback and exit with 2.
    """


class ShardError(Exception):
    """One shard cannot be read whole, so nothing is published for it.

    Reading it again would give the same result (a cut tar, a repeated key). Errors of the
    storage itself are not of this kind: they stay ``OSError`` and are retried.
    """
