"""A recipe made of published files, by a function of this process or in others."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cambox.output.derived
from cambox.errors import RequestError, ShardError
from cambox.output.derived import Derived, Parents, derive, whole_rows
from cambox.output.footer import Recipe
from cambox.output.reading import open_recipe
from makers import CLASS_NAMES, Published, publish_rows

RECIPE = Recipe.of({"made": "for this test", "output": {}}, CLASS_NAMES)


@dataclass(frozen=True)
class Seen:
    """The rows of files, and the processes that made them."""

    rows: int = 0
    processes: frozenset[int] = frozenset()

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.rows + other.rows, self.processes | other.processes)

    def to_json(self) -> dict[str, int]:
        return {"rows": self.rows}

    def lines(self, seconds: float) -> list[str]:
        return [f"{self.rows} rows"]


def as_it_is(parents: Parents) -> tuple[pa.Table, Seen]:
    rows = whole_rows(parents[0])
    return rows, Seen(rows.num_rows, frozenset({os.getpid()}))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_rows(tmp_path_factory.mktemp("published"))


@pytest.fixture
def sources(published: Published) -> list[Parents]:
    return [(file,) for file in open_recipe(str(published.output)).files]


def test_a_function_that_no_other_process_could_run_makes_the_files(
    published: Published, sources: list[Parents], tmp_path: Path
) -> None:
    asked: list[str] = []

    def make(parents: Parents) -> tuple[pa.Table, Seen]:
        asked.append(parents[0].name)
        if len(asked) == 2:
            raise ShardError("the tar is cut")
        return as_it_is(parents)

    def run() -> Derived[Seen]:
        return derive(str(tmp_path / "to"), RECIPE, sources, make, Seen())

    first = run()
    names = [file.name for (file,) in sources]
    assert asked == names
    assert (first.published, first.done_before) == (2, 0)
    assert first.failures == {sources[1][0].uri: "the tar is cut"}
    assert first.to_json()["files"]["given_up"] == [
        {"file": sources[1][0].uri, "reason": "the tar is cut"}
    ]
    # What was given up is asked for again, and nothing else.
    second = run()
    assert asked[3:] == [names[1]]
    assert (second.published, second.done_before, second.failures) == (1, 2, {})
    assert first.made.rows + second.made.rows == len(published.rows)
    for name in names:
        made, given = (
            pq.read_table(f"{folder}/{name}") for folder in (first.folder, published.folder)
        )
        assert made.equals(given)


@pytest.mark.parametrize("changed", [0, 1])
def test_a_file_of_two_parents_is_made_again_when_either_changes(
    changed: int, sources: list[Parents], tmp_path: Path
) -> None:
    pairs = [(file, replace(file, recipe_digest=64 * "b")) for (file,) in sources]
    to = str(tmp_path / "to")
    first = derive(to, RECIPE, pairs, as_it_is, Seen())
    path = Path(first.folder) / pairs[0][0].name
    assert json.loads(pq.read_metadata(path).metadata[b"cambox.source"]) == [
        {"recipe_digest": file.recipe_digest, "sha256": file.data_digest} for file in pairs[0]
    ]
    assert derive(to, RECIPE, pairs, as_it_is, Seen()).published == 0
    other = list(pairs[0])
    other[changed] = replace(other[changed], data_digest=64 * "0")
    assert derive(to, RECIPE, [tuple(other), *pairs[1:]], as_it_is, Seen()).published == 1


@pytest.mark.parametrize("in_processes", [False, True])
def test_other_processes_are_taken_only_if_they_may_be(
    in_processes: bool, sources: list[Parents], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cambox.output.derived, "PROCESSES_PAY_SECONDS", 0.0)
    monkeypatch.setattr(cambox.output.derived, "usable_cpus", lambda: 2)
    to = str(tmp_path / "to")
    made = derive(to, RECIPE, sources, as_it_is, Seen(), in_processes=in_processes)
    assert made.published == len(sources) == 3
    assert os.getpid() in made.made.processes
    assert (len(made.made.processes) > 1) is in_processes


def test_a_place_that_cannot_be_written_is_told_before_anything_is_made(
    sources: list[Parents], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    def never(parents: Parents) -> tuple[pa.Table, Seen]:
        raise AssertionError(parents)

    with pytest.raises(RequestError, match="to cannot be read: "):
        derive(str(tmp_path / "file" / "to"), RECIPE, sources, never, Seen())
