"""The classes that come with a sample."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cambox.errors import RequestError

_MAX_CLASS = 2**31 - 1


class LabelError(ValueError):
    """A sample's label is there, but does not say which classes."""


def read_labels(members: Mapping[str, bytes], source: str) -> tuple[int, ...] | None:
    """The class indices given with a sample, in their order, each once.

    Args:
        members: the sample's files, bytes by suffix.
        source: ``cls``, a member with one integer or several separated by white space; or
            ``json:<field>``, a field of the member ``json`` with an integer or a list of them.

    Returns:
        None where the member, the field or its value (null) is absent; ``()`` where the label
        says that the image has no class.

    Raises:
        LabelError: the label is there, but malformed.
        RequestError: the source is of neither kind.
    """
    if source == "cls":
        return _from_text(members["cls"]) if "cls" in members else None
    kind, _, field = source.partition(":")
    if kind != "json" or not field:
        raise RequestError(f"input.labels: {source!r} is unknown; use cls or json:<field>")
    return _from_json(members["json"], field) if "json" in members else None


def _from_text(data: bytes) -> tuple[int, ...]:
    try:
        words = data.decode("utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise LabelError("cls: not a text") from error
    classes = []
    for word in words:
        digits = word.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            raise LabelError(f"cls: {word[:40]!r} is not an integer")
        classes.append(int(word))
    return _checked(classes, "cls")


def _from_json(data: bytes, field: str) -> tuple[int, ...] | None:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"json: broken ({error})") from error
    if not isinstance(record, dict):
        raise LabelError("json: not an object with fields")
    value = record.get(field)
    if value is None:
        return None
    classes = value if isinstance(value, list) else [value]
    for item in classes:
        # true and false are integers to Python.
        if not isinstance(item, int) or isinstance(item, bool):
            raise LabelError(f"json: {field} holds {str(item)[:40]!r}, not an integer")
    return _checked(classes, f"json: {field}")


def _checked(classes: list[int], where: str) -> tuple[int, ...]:
    for index in classes:
        if not 0 <= index <= _MAX_CLASS:
            reason = "negative" if index < 0 else "too large"
            raise LabelError(f"{where}: class {index} is {reason}")
    return tuple(dict.fromkeys(classes))
