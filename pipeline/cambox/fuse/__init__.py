"""``cambox fuse``: one output from two of the same shards, by two networks or in two rounds."""

from __future__ import annotations

from enum import Enum


class Rule(Enum):
    """What becomes of the boxes of two outputs, as the command line names it."""

    fuse = "fuse"
    agree = "agree"
    union = "union"
    replace = "replace"
