"""What a run leaves behind is what readers read, however often the folder changes meanwhile."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.dataset
import pytest
from fsspec import AbstractFileSystem

import cambox
from cambox.boxes import Boxes
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.commit import commit, find
from cambox.output.footer import Recipe
from cambox.output.latest import Latest, move_latest, read_latest
from cambox.output.manifest import (
    GivenUpShard,
    manifest_uri,
    newest_manifest,
    read_manifest,
    runs_uri,
)
from cambox.output.prune import prune
from cambox.output.publish import file_name, publish, recipe_uri, require_publishable
from cambox.output.reading import open_recipe
from cambox.output.rows import Row, table
from cambox.sources.shards import Shard
from cambox.verify.verify import verify

NOW = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)
RECIPE = Recipe.of({"made": "for this test", "output": {}}, ("cat",))
SHARDS = tuple(Shard(f"/data/shard-{number}.tar", 100, "first") for number in range(3))
ROWS = 200


class Output:
    """A recipe's folder whose shards change, without any network."""

    def __init__(self, uri: str) -> None:
        self.settings = OutputSettings(uri=uri)
        self.folder = recipe_uri(self.settings, RECIPE)
        self.filesystem, self.root = fsspec.url_to_fs(uri)
        self.now = NOW

    def night(self, state: str, *shards: Shard, given_up: tuple[Shard, ...] = ()) -> str:
        """Publish shards in a state that their keys tell; gives the manifest."""
        for shard in shards:
            publish(rows_of(shard, state), changed(shard, state), RECIPE, self.settings)
        self.now += timedelta(days=1)
        failures = [
            GivenUpShard(shard=shard.uri, fingerprint=state, reason="cut", attempts=1)
            for shard in given_up
        ]
        all_shards = [changed(shard, state) for shard in SHARDS]
        return commit(self.settings, RECIPE, all_shards, failures, self.now)

    def bytes_of(self, below: str) -> bytes:
        data: bytes = self.filesystem.cat_file(f"{self.root}/{below}")
        return data

    def names(self, below: str) -> set[str]:
        path = f"{self.root}/_runs/{RECIPE.folder}/{below}"
        if not self.filesystem.exists(path):
            return set()
        self.filesystem.invalidate_cache()
        return {name.rpartition("/")[2] for name in self.filesystem.ls(path, detail=False)}


def changed(shard: Shard, state: str) -> Shard:
    return replace(shard, fingerprint=state)


def rows_of(shard: Shard, state: str) -> pa.Table:
    rows = [
        Row(f"{state} {number}", shard.uri, number, "unreadable", "zero bytes", None, None, None)
        for number in range(ROWS)
    ]
    return table(rows, Boxes.of([]), ("cat",), with_maps=False)


def expected(*states: str) -> list[str]:
    return [f"{state} {number}" for state in states for number in range(ROWS)]


def keys_of(uri: str) -> list[str]:
    batches = open_recipe(uri).batches(["key"])
    return [key for batch in batches for key in batch["key"].to_pylist()]


@pytest.fixture(params=["disk", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    memory = f"memory://{tmp_path.name}/out"
    return Output(memory if request.param == "memory" else str(tmp_path / "out"))


def test_a_manifest_names_every_file_to_the_byte(output: Output) -> None:
    digest = output.night("a", *SHARDS[:2], given_up=SHARDS[2:])
    data = output.bytes_of(f"_runs/{RECIPE.folder}/manifests/{digest}.json")
    assert hashlib.sha256(data).hexdigest() == digest
    manifest = json.loads(data)
    assert manifest["recipe_digest"] == RECIPE.digest
    assert manifest["settings"] == {"made": "for this test", "output": {}}
    assert manifest["shards"] == [[shard.uri, "a"] for shard in SHARDS]
    assert [one["shard"] for one in manifest["given_up"]] == [SHARDS[2].uri]
    assert manifest["previous"] is None
    for file, shard in zip(manifest["files"], SHARDS[:2], strict=True):
        found = output.bytes_of(f"{RECIPE.folder}/{file['name']}")
        assert file["name"] == file_name(shard.uri)
        assert file["sha256"] == hashlib.sha256(found).hexdigest()
        assert (file["size"], file["rows"]) == (len(found), ROWS)
        assert (file["shard"], file["fingerprint"]) == (shard.uri, "a")


def test_a_run_that_changes_nothing_writes_none(output: Output) -> None:
    first = output.night("a", *SHARDS)
    before = output.names("manifests")
    assert output.night("a") == first
    assert output.names("manifests") == before == {f"{first}.json"}
    second = output.night("b", SHARDS[0])
    assert read_manifest(output.folder, second).previous == first


def test_readers_see_a_run_once_it_has_ended(output: Output) -> None:
    output.night("a", *SHARDS)
    publish(rows_of(SHARDS[0], "b"), changed(SHARDS[0], "b"), RECIPE, output.settings)
    assert keys_of(output.folder) == expected("a", "a", "a")
    assert cambox.read(output.folder).to_table()["key"].to_pylist() == expected("a", "a", "a")
    # Any other reader takes the folder, which has one file a shard at any moment.
    assert len(find(output.settings, RECIPE).files) == 3
    output.night("b")
    assert keys_of(output.folder) == expected("b", "a", "a")
    assert keys_of(output.settings.uri) == expected("b", "a", "a")


def test_a_program_that_ends_once_it_has_read_ends_well(tmp_path: Path) -> None:
    """Arrow's threads still close files then, and used to abort most such programs."""
    night = Output(str(tmp_path))
    night.night("a", *SHARDS)
    # A slow disk: else some come to their end in time.
    program = f"""
import time
import cambox
from fsspec.implementations.local import LocalFileOpener as File
close = File.close
File.close = lambda file: (time.sleep(0.1), close(file))
print(cambox.read({night.folder!r}).to_table().num_rows)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100)
    rows = len(expected("a", "a", "a"))
    assert (ended.returncode, ended.stdout.decode(), ended.stderr) == (0, f"{rows}\n", b"")


def three_nights_and_a_prune(output: Output) -> None:
    for state in ("b", "c", "d"):
        output.night(state, *SHARDS)
    # Everything is of yesterday by then.
    prune(output.settings, 4, datetime.now(UTC) + timedelta(days=2), delete=True)


def by_fragments(rows: pyarrow.dataset.Dataset) -> Iterator[pa.RecordBatch]:
    """One file after the other: else Arrow opens so few before the first rows are there."""
    for fragment in rows.get_fragments():
        yield from fragment.to_batches(columns=["key"], batch_size=50)


Reader = Callable[[str], Iterator[pa.RecordBatch]]
READERS: dict[str, Reader] = {
    "our own": lambda uri: open_recipe(uri).batches(["key"]),
    "of Arrow": lambda uri: by_fragments(cambox.read(uri)),
    "of Arrow, sent on": lambda uri: by_fragments(pickle.loads(pickle.dumps(cambox.read(uri)))),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_ends_with_what_it_began_with_while_nights_run_and_prune(
    output: Output, reader: str
) -> None:
    output.night("a", *SHARDS)
    batches = READERS[reader](output.folder)
    keys = next(batches)["key"].to_pylist()
    three_nights_and_a_prune(output)
    for batch in batches:
        keys += batch["key"].to_pylist()
    assert keys == expected("a", "a", "a")
    assert keys_of(output.folder) == expected("d", "d", "d")
    assert verify(output.folder).remarks == ()


def test_single_rows_and_whole_files_are_those_that_were_named(output: Output) -> None:
    output.night("a", *SHARDS)
    recipe = open_recipe(output.folder)
    data = recipe.files[1].whole()
    three_nights_and_a_prune(output)
    assert [row["key"] for row in recipe.files[1].rows_at([3, 199])] == ["a 3", "a 199"]
    assert recipe.files[1].whole() == data
    assert recipe.files[2].table(["key"])["key"].to_pylist() == expected("a")


def test_duckdb_reads_what_a_manifest_names(output: Output) -> None:
    output.night("a", *SHARDS)
    rows = cambox.read(output.folder)
    output.night("b", *SHARDS)
    query = "SELECT count(*), count(DISTINCT key), min(key) FROM rows"
    assert duckdb.sql(query).fetchall() == [(3 * ROWS, ROWS, "a 0")]
    assert rows.count_rows() == 3 * ROWS


def test_a_prune_removes_only_what_no_kept_manifest_names(output: Output) -> None:
    digests = [output.night(state, SHARDS[0]) for state in "abcde"]
    assert len(output.names("replaced")) == 4
    later = datetime.now(UTC) + timedelta(days=2)
    (young,) = prune(output.settings, 2, datetime.now(UTC), delete=True)
    assert (young.manifests, young.files, young.young) == ((), (), 6)
    (found,) = prune(output.settings, 2, later)
    assert found.kept == (digests[4], digests[3])
    assert (len(found.manifests), len(found.files)) == (3, 3)
    assert len(output.names("replaced")) == 4
    folder = output.folder
    point(output, digests[1])
    assert prune(output.settings, 2, later, delete=True)[0].kept == (*digests[:2:-1], digests[1])
    assert output.names("manifests") == {f"{digests[at]}.json" for at in (1, 3, 4)}
    assert len(output.names("replaced")) == 2
    assert keys_of(output.settings.uri) == expected("b")
    assert keys_of(folder) == expected("e")
    assert verify(folder).ok


def point(output: OutputSettings | Output, digest: str, run: str = "1") -> Latest:
    latest = Latest(
        recipe=RECIPE.folder,
        uri=output.folder if isinstance(output, Output) else output.uri,
        run=run,
        shards=1,
        rows=ROWS,
        moved_at=NOW,
        manifest=digest,
    )
    settings = output.settings if isinstance(output, Output) else output
    return move_latest(settings, latest)


def test_a_late_night_does_not_move_latest_back(output: Output) -> None:
    first, second = (output.night(state, *SHARDS) for state in "ab")
    assert point(output, second).manifest == second
    assert point(output, first).manifest == second
    latest = read_latest(output.settings)
    assert latest is not None
    assert latest.manifest == second
    third = output.night("c", *SHARDS)
    # Not yet: the night that wrote it has not verified it.
    assert keys_of(output.settings.uri) == expected("b", "b", "b")
    assert keys_of(output.folder) == expected("c", "c", "c")
    assert point(output, third).manifest == third


def test_two_runs_that_end_at_once_both_stay_in_the_chain(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each knows only its own shard, and the second ends while the first is about to."""
    output.night("a", SHARDS[2])
    before = find(output.settings, RECIPE)
    for shard in SHARDS[:2]:
        publish(rows_of(shard, "a"), changed(shard, "a"), RECIPE, output.settings)
    honest = cambox.output.commit.write_manifest
    other: list[str] = []

    def late(*arguments: object) -> str | None:
        if not other:
            other.append("")
            all_of_it = [changed(shard, "a") for shard in SHARDS]
            other[0] = commit(output.settings, RECIPE, all_of_it, (), NOW, before, SHARDS[:1])
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cambox.output.commit, "write_manifest", late)
    digest = commit(output.settings, RECIPE, SHARDS[1:2], (), NOW, before, SHARDS[1:2])
    manifest = read_manifest(output.folder, digest)
    assert manifest.previous == other[0]
    assert [file.shard for file in manifest.files] == [shard.uri for shard in SHARDS]


def with_listings(
    output: Output, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], list[str]]
) -> None:
    """Let ``change`` say which of the paths that are there a listing has."""
    kind = type(output.filesystem)
    honest = kind.ls

    def ls(filesystem: AbstractFileSystem, path: str, detail: bool = False) -> list[object]:
        entries = {entry["name"]: entry for entry in honest(filesystem, path, detail=True)}
        shown = change(list(entries))
        return [entries[name] if detail else name for name in shown]

    monkeypatch.setattr(kind, "ls", ls)


def test_a_listing_that_is_late_takes_nothing_from_a_runs_manifest(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.night("a", *SHARDS[:2])
    before = find(output.settings, RECIPE)
    publish(rows_of(SHARDS[2], "a"), changed(SHARDS[2], "a"), RECIPE, output.settings)
    new = file_name(SHARDS[2].uri)
    with_listings(output, monkeypatch, lambda paths: [one for one in paths if new not in one])
    assert len(find(output.settings, RECIPE).files) == 2
    all_of_it = [changed(shard, "a") for shard in SHARDS]
    digest = commit(output.settings, RECIPE, all_of_it, (), NOW, before, SHARDS[2:])
    files = read_manifest(output.folder, digest).files
    assert {file.shard for file in files} == {shard.uri for shard in SHARDS}


def test_a_file_that_goes_after_it_was_listed_is_not_found(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.night("a", *SHARDS)
    gone = file_name(SHARDS[0].uri)

    def listed_and_then_removed(paths: list[str]) -> list[str]:
        for path in paths:
            if path.endswith(gone):
                output.filesystem.rm_file(path)
        return paths

    with_listings(output, monkeypatch, listed_and_then_removed)
    found = find(output.settings, RECIPE).files
    assert sorted(found) == sorted(file_name(shard.uri) for shard in SHARDS[1:])


def test_a_run_whose_own_file_is_not_there_any_more_writes_no_manifest(output: Output) -> None:
    first = output.night("a", *SHARDS[:2])
    before = find(output.settings, RECIPE)
    publish(rows_of(SHARDS[2], "a"), changed(SHARDS[2], "a"), RECIPE, output.settings)
    name = file_name(SHARDS[2].uri)
    output.filesystem.rm_file(f"{output.root}/{RECIPE.folder}/{name}")
    all_of_it = [changed(shard, "a") for shard in SHARDS]
    with pytest.raises(OSError, match=f"{name} was published, and is not there"):
        commit(output.settings, RECIPE, all_of_it, (), NOW, before, SHARDS[2:])
    assert newest_manifest(output.folder)[1] == first


def test_a_probe_that_may_not_be_deleted_is_no_fault_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(f"memory://{tmp_path.name}/out")
    output.night("a", *SHARDS)

    def refuse(*arguments: object) -> None:
        raise PermissionError("nobody may delete here")

    monkeypatch.setattr(type(output.filesystem), "rm_file", refuse)
    require_publishable(output.settings, RECIPE)
    folder = f"{output.root}/{RECIPE.folder}"
    left = {path.rpartition("/")[2] for path in output.filesystem.ls(folder, detail=False)}
    assert len(left) == len(SHARDS) + 1, "else the probe is not what this is about"
    assert verify(output.folder).ok


def test_what_is_lost_or_damaged_is_named(output: Output) -> None:
    digest = output.night("a", *SHARDS)
    name = file_name(SHARDS[1].uri)
    path = f"{output.root}/{RECIPE.folder}/{name}"
    data = output.filesystem.cat_file(path)
    output.filesystem.rm_file(path)
    with pytest.raises(RequestError, match=f"{name} is not what the last run left there"):
        open_recipe(output.folder)
    (problem,) = verify(output.folder).problems
    assert problem.kind == "manifest"
    assert problem.file.endswith(name)
    output.filesystem.pipe_file(path, data)
    assert verify(output.folder).ok
    manifest = locate_path(manifest_uri(output.folder, digest))
    text = output.filesystem.cat_file(manifest)
    output.filesystem.pipe_file(manifest, text.replace(b"first", b"worse").replace(b"a", b"b"))
    with pytest.raises(RequestError, match="is damaged: its bytes are not those"):
        open_recipe(output.folder)
    assert [one.kind for one in verify(output.folder).problems] == ["manifest"]
    pointer = locate_path(f"{runs_uri(output.folder)}/newest.json")
    output.filesystem.pipe_file(pointer, b'{"manifest": "../../private"}')
    with pytest.raises(RequestError, match="not a pointer to a manifest"):
        newest_manifest(output.folder)


def locate_path(uri: str) -> str:
    path: str = fsspec.url_to_fs(uri)[1]
    return path


def test_a_lost_manifest_is_written_again_off_the_files(output: Output) -> None:
    digest = output.night("a", *SHARDS)
    output.filesystem.rm_file(locate_path(manifest_uri(output.folder, digest)))
    with pytest.raises(RequestError, match="run cambox annotate again, which writes another"):
        open_recipe(output.folder)
    again = output.night("a")
    assert read_manifest(output.folder, again).files
    assert keys_of(output.folder) == expected("a", "a", "a")


def test_an_output_without_manifests_is_read_as_it_lies_there(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    for shard in SHARDS[:2]:
        publish(rows_of(shard, "a"), changed(shard, "a"), RECIPE, output.settings)
    assert keys_of(output.folder) == expected("a", "a")
    assert cambox.read(output.settings.uri).count_rows() == 2 * ROWS
    assert "manifest" not in {problem.kind for problem in verify(output.folder).problems}
