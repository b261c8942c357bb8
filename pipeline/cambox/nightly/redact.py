"""Storage options may hold keys; a report is read by more people than may know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cambox.config import Config

_HIDDEN = "***"
_OPTIONS = "storage_options"


def without_secrets(command: Sequence[str]) -> tuple[str, ...]:
    """A command line without the values of overrides that set storage options."""
    return tuple(
        f"{argument.partition('=')[0]}={_HIDDEN}" if _OPTIONS in argument else argument
        for argument in command
    )


def config_without_secrets(config: Config) -> dict[str, Any]:
    """The configuration as JSON values, storage options by name only."""
    document = config.model_dump(mode="json")
    for section in ("input", "output"):
        document[section][_OPTIONS] = dict.fromkeys(document[section][_OPTIONS], _HIDDEN)
    return document
