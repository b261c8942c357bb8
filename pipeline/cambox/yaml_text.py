"""YAML that anyone wrote: as large as it looks, and whatever is wrong with it is one error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

MOST_CHARACTERS = 4_000_000
"""Of a text; and of what it stands for, as an alias (``*name``) stands for all that it names."""
MOST_LEVELS = 100
# Python counts no further in a message.
_INTEGER, _MOST_DIGITS = "tag:yaml.org,2002:int", 1000
# No file's name, tensor or Parquet column can hold them.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
# What PyYAML's constructors raise beside its own: of a 13th month, a number of 5,000 digits, ...
_RAISED = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError)


class NotYamlError(Exception):
    """What was to be YAML is not, or it is nothing that settings could be."""


def text_of(path: str | Path) -> str:
    """The text of a file, one character more than there may be at most.

    What has no end, such as ``/dev/zero``, is so refused like any text that is too long.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is no text.
    """
    with Path(path).open(encoding="utf-8") as file:
        return file.read(MOST_CHARACTERS + 1)


def read_yaml(text: str) -> Any:
    """The values of a document, as ``yaml.safe_load`` makes them.

    >>> read_yaml("{a: [1, x]}")
    {'a': [1, 'x']}

    Raises:
        NotYamlError: it is not YAML, nested too deep, or far larger than its text.
    """
    with _one_kind_of_error():
        loader = yaml.SafeLoader(_short(text))
        node = loader.get_single_node()
        if node is None:
            return None
        _Extent().of(node)
        return loader.construct_document(node)


def compose_yaml(text: str) -> yaml.Node | None:
    """A document's nodes, whose scalars are as they stand there.

    Raises:
        NotYamlError: as ``read_yaml``.
    """
    with _one_kind_of_error():
        node: yaml.Node | None = yaml.compose(_short(text), Loader=yaml.BaseLoader)
        if node is not None:
            _Extent().of(node)
        return node


def _short(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise NotYamlError(f"longer than {MOST_CHARACTERS} characters")
    return text


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise NotYamlError("nested too deep") from error
    except _RAISED as error:
        raise NotYamlError(str(error)) from error


class _Extent:
    """How many characters, on how many levels, nodes stand for; each is looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int] | None] = {}

    def of(self, node: yaml.Node) -> tuple[int, int]:
        """The characters and the levels of one node.

        Raises:
            NotYamlError: they are too many, or it holds itself.
        """
        if id(node) in self._known:
            known = self._known[id(node)]
            if known is None:
                raise NotYamlError(f"{_line(node)}: it holds itself")
            return known
        self._known[id(node)] = None
        characters, levels = 1, 1
        if isinstance(node, yaml.ScalarNode):
            if node.tag == _INTEGER and len(node.value) > _MOST_DIGITS:
                raise NotYamlError(f"{_line(node)}: a number of over {_MOST_DIGITS} digits")
            if _NO_TEXT.search(node.value):
                raise NotYamlError(f"{_line(node)}: a text with a NUL or half a character")
            characters += len(node.value)
        else:
            pairs = isinstance(node, yaml.MappingNode)
            inner = [one for pair in node.value for one in pair] if pairs else node.value
            extents = [self.of(one) for one in inner]
            characters += sum(most for most, _ in extents)
            levels += max((deep for _, deep in extents), default=0)
        if characters > MOST_CHARACTERS or levels > MOST_LEVELS:
            what = "nested too deep" if levels > MOST_LEVELS else "its aliases stand for too much"
            raise NotYamlError(f"{_line(node)}: {what}")
        self._known[id(node)] = characters, levels
        return characters, levels


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
