"""The input of the day: ``{date}`` in ``input.shards`` becomes a date."""

from __future__ import annotations

import re
from datetime import date, datetime

from cambox.config import Config
from cambox.errors import RequestError

# Braces with anything else in them ({000..099}, {a,b}) are for the expansion of shard names.
_PLACEHOLDER = re.compile(r"\{date(?::([^{}]*))?\}")


def parse_day(text: str) -> date:
    """The day of ``--date``.

    Raises:
        RequestError: it is not a date.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise RequestError(f"--date: {text!r} is not a date; write it as 2026-01-31") from error


def of_the_day(config: Config, day: date) -> Config:
    """The configuration with the placeholders of ``input.shards`` filled in.

    ``{date}`` is YYYY-MM-DD and ``{date:%Y/%m/%d}`` any form of ``strftime``. Without a
    placeholder nothing changes: the input is a folder that grows.

    Raises:
        RequestError: a placeholder's form is not one of ``strftime``.
    """
    shards = [_PLACEHOLDER.sub(lambda match: _text(match, day), uri) for uri in config.input.shards]
    return config.model_copy(update={"input": config.input.model_copy(update={"shards": shards})})


def _text(match: re.Match[str], day: date) -> str:
    form = "%Y-%m-%d" if match[1] is None else match[1]
    text = day.strftime(form)
    # A code that strftime does not know stays as it is, and text without one names no day.
    if "%" in text or text == form:
        raise RequestError(
            f"input.shards: {match[0]} is not a date; write {{date}} or {{date:%Y/%m/%d}}"
        )
    return text
