"""A label is read exactly, is absent, or is an error; never a guess."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambox.errors import RequestError
from cambox.sources.labels import LabelError, read_labels

# Zeros and ones that repeat are flags, which is another test's matter.
classes = st.lists(st.integers(0, 2**31 - 1), max_size=6).filter(
    lambda given_classes: len(set(given_classes)) == len(given_classes) or max(given_classes) > 1
)


@given(classes, st.sampled_from([" ", "\n", "  \t"]))
def test_cls_gives_back_its_integers(given_classes: list[int], between: str) -> None:
    text = between.join(map(str, given_classes)) + "\n"
    expected = tuple(dict.fromkeys(given_classes))
    assert read_labels({"cls": text.encode(), "jpg": b""}, "cls") == expected


@given(classes)
def test_json_gives_back_its_integers(given_classes: list[int]) -> None:
    members = {"json": json.dumps({"label": given_classes, "other": "x"}).encode()}
    assert read_labels(members, "json:label") == tuple(dict.fromkeys(given_classes))
    for one in given_classes:
        assert read_labels({"json": b'{"a b": %d}' % one}, "json:a b") == (one,)


@given(st.lists(st.integers(0, 1), min_size=3, max_size=20))
def test_a_flag_for_each_class_is_no_list_of_classes(flags: list[int]) -> None:
    for members, source in (
        ({"cls": " ".join(map(str, flags)).encode()}, "cls"),
        ({"json": json.dumps({"label": flags}).encode()}, "json:label"),
    ):
        with pytest.raises(LabelError, match=r"are one-hot flags; list the classes' indices"):
            read_labels(members, source)


def test_absent_and_empty_are_told_apart() -> None:
    assert read_labels({"jpg": b""}, "cls") is None
    assert read_labels({"cls": b"1"}, "json:label") is None
    assert read_labels({"json": b"{}"}, "json:label") is None
    assert read_labels({"json": b'{"label": null}'}, "json:label") is None
    assert read_labels({"json": b'{"label": []}'}, "json:label") == ()
    assert read_labels({"cls": b""}, "cls") == ()
    assert read_labels({"cls": b" \n"}, "cls") == ()
    assert read_labels({"cls": b"\xef\xbb\xbf3 2 3"}, "cls") == (3, 2)
    assert read_labels({"cls": b"1 0"}, "cls") == (1, 0)
    assert read_labels({"cls": b"0 2 0"}, "cls") == (0, 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"cat", "'cat' is not an integer"),
        (b"1.0", "not an integer"),
        (b"1,2", "not an integer"),
        (b"1_0", "not an integer"),
        (b"+1", "not an integer"),
        ("\u0663".encode(), "not an integer"),
        (b"1 -2", "class -2 is negative"),
        (b"2147483648", "too large"),
        (b"9" * 10_000, "not an integer"),
        (b"\xff\xfe", "not a text"),
        (b"\0", "not an integer"),
    ],
)
def test_malformed_cls(data: bytes, reason: str) -> None:
    with pytest.raises(LabelError, match=f"^cls: .*{reason}"):
        read_labels({"cls": data}, "cls")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"label": "3"}', "'3', not an integer"),
        (b'{"label": 3.0}', "not an integer"),
        (b'{"label": true}', "not an integer"),
        (b'{"label": [1, [2]]}', "not an integer"),
        (b'{"label": {"id": 1}}', "not an integer"),
        (b'{"label": [1, null]}', "not an integer"),
        (b'{"label": -1}', "class -1 is negative"),
        (b'{"label": 4294967296}', "too large"),
        (b'{"label": 1', "broken"),
        (b"", "broken"),
        (b"\xff\xff", "broken"),
        (b"[1]", "not an object"),
        (b"[" * 100_000, "broken"),
        (b'{"label": ' + b"9" * 5000 + b"}", "broken"),
    ],
)
def test_malformed_json(data: bytes, reason: str) -> None:
    with pytest.raises(LabelError, match=f"^json: .*{reason}"):
        read_labels({"json": data}, "json:label")


@pytest.mark.parametrize("source", ["", "txt", "json", "json:", "cls:a"])
def test_an_unknown_source_is_the_requests_fault(source: str) -> None:
    with pytest.raises(RequestError, match=r"input\.labels: .* use cls or json:<field>"):
        read_labels({"cls": b"1", "json": b"{}"}, source)
