"""A picture's chunk depends on its name alone, and a chunk reads as a shard does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.errors import RequestError, ShardError
from cambox.sources.chunks import find_chunks
from cambox.sources.samples import read_samples
from cambox.sources.shards import Shard
from cambox.sources.states import state_of
from cambox.sources.stream import with_content_fingerprints

names = st.sets(st.text("abé 01.", min_size=1, max_size=8), min_size=1, max_size=30)


Stored = Callable[[set[str]], str]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Makes a folder with a file of each path, which holds its own name."""

    def make(paths: set[str]) -> str:
        folder = tmp_path_factory.mktemp("stored")
        for path in paths:
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(path, "utf-8")
        return str(folder)

    return make


@given(names, names, st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_a_picture_that_comes_moves_no_other(
    stored: Stored, some: set[str], more: set[str], count: int
) -> None:
    def chunk_of(stems: set[str]) -> dict[str, str]:
        chunks, _ = find_chunks([stored({f"x/y{stem}.z.jpg" for stem in stems})], count)
        assert len(chunks) <= count
        return {file.path: Path(chunk.uri).name for chunk in chunks for file in chunk.files}

    before, after = chunk_of(some), chunk_of(some | more)
    assert before.keys() == {f"x/y{stem}.z.jpg" for stem in some}
    assert after.keys() == {f"x/y{stem}.z.jpg" for stem in some | more}
    assert before.items() <= after.items()


@given(names, st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_every_picture_is_read_once_with_its_key(
    stored: Stored, stems: set[str], count: int
) -> None:
    paths = {f"x/y{stem}.z.PNG" for stem in stems}
    chunks, _ = find_chunks([stored(paths)], count)
    read = {}
    for chunk in chunks:
        seen: list[bytes] = []
        samples = list(read_samples(chunk, on_bytes=seen.append))
        assert [sample.index for sample in samples] == list(range(len(samples)))
        read |= {sample.key: sample.members["png"].decode() for sample in samples}
        assert sum(map(len, seen)) == chunk.size
        assert state_of(chunk) == state_of(with_content_fingerprints([chunk])[0]) == "same"
        assert Shard.of_entry(json.loads(json.dumps(chunk.to_entry()))) == chunk
    assert read == {path.removesuffix(".PNG"): path for path in paths}


def test_a_tar_s_entry_is_what_it_was() -> None:
    entry = {"uri": "/a.tar", "size": 5, "fingerprint": "size=5"}
    assert Shard.of_entry(entry).to_entry() == entry
    assert list(Shard.of_entry(entry).to_entry()) == list(entry)


def test_what_has_changed_since_it_was_listed_is_noticed(stored: Stored) -> None:
    folder = stored({"a.jpg", "b.jpg"})
    (chunk,), _ = find_chunks([folder], 1)
    with pytest.raises(ShardError, match=r"a\.jpg has more than 4 bytes; remove it, or raise"):
        list(read_samples(chunk, max_sample_bytes=4))
    Path(folder, "b.jpg").write_text("longer")
    assert state_of(chunk) == "changed"
    with pytest.raises(OSError, match=r"gave 11 bytes where it had listed 10: the pictures have"):
        list(read_samples(chunk))
    Path(folder, "b.jpg").unlink()
    assert state_of(chunk) == "changed"
    with pytest.raises(FileNotFoundError):
        list(read_samples(chunk))
    Path(folder, "a.jpg").unlink()
    assert state_of(chunk) == "gone"


def test_class_folders_are_labels_and_strays_are_named(stored: Stored) -> None:
    folder = stored({"b/1.jpg", "a/2.jpg", "a/3.jpg", "stray.jpg"})
    notes: list[str] = []
    chunks, _ = find_chunks([folder], 3, on_note=notes.append)
    classes = {file.path: file.classes for chunk in chunks for file in chunk.files}
    assert classes == {"a/2.jpg": "0", "a/3.jpg": "0", "b/1.jpg": "1", "stray.jpg": None}
    (note,) = notes
    assert note.endswith("1 images are not directly in a class folder and have no label: stray.jpg")
    with pytest.raises(RequestError, match=r"input\.images: 'pipe:x': 'pipe:' is not a storage"):
        find_chunks(["pipe:x"], 3)


def test_a_name_that_is_not_utf_8_is_passed_over_and_said(stored: Stored) -> None:
    folder = stored({"a.jpg"})
    Path(folder, "caf\udce9.jpg").write_bytes(b"")
    notes: list[str] = []
    (chunk,), _ = find_chunks([folder], 1, on_note=notes.append)
    assert [file.path for file in chunk.files] == ["a.jpg"]
    assert notes[0].endswith(r"passed over 1 with names that are not UTF-8 (caf\xe9.jpg)")


def test_pictures_may_lie_on_other_storage() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("one.jpg", "two.jpg"):
        memory.pipe_file(f"/chunks/a/{name}", name.encode())
    memory.pipe_file("/chunks/table.csv", b"image\na/one.jpg\nmemory://chunks/a/two.jpg\n")
    for pattern, keys in (
        ("memory://chunks/a", {"one": "one.jpg", "two": "two.jpg"}),
        ("memory://chunks/table.csv", {"a/one": "one.jpg", "chunks/a/two": "two.jpg"}),
    ):
        chunks, _ = find_chunks([pattern], 2)
        assert all(chunk.uri.startswith("memory://chunks/") for chunk in chunks)
        samples = [sample for chunk in chunks for sample in read_samples(chunk)]
        assert {sample.key: sample.members["jpg"].decode() for sample in samples} == keys
