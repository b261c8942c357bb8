"""Patterns find the shards that are there, and nothing that is opened can execute anything."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cambox.errors import RequestError
from cambox.sources.chunks import find_chunks
from cambox.sources.samples import read_samples
from cambox.sources.shards import ImageFile, Shard, about_images, find_shards
from cambox.sources.signed import unsigned
from cambox.sources.states import state_of, states_of
from cambox.sources.storage import canonical_uri, fingerprint, locate, open_stream
from cambox.sources.stream import with_content_fingerprints

EMPTY_TAR = bytes(10240)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    for name in ("s-0.tar", "s-1.tar", "s-2.tar", "b/x.tar", "b/y.tar.gz", "note.txt"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(shards: list[Shard], below: Path) -> list[str]:
    return [str(Path(shard.uri).relative_to(below)) for shard in shards]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["s-1.tar"], ["s-1.tar"]),
        (["./s-1.tar", "b/../s-1.tar"], ["s-1.tar"]),
        (["*.tar"], ["s-0.tar", "s-1.tar", "s-2.tar"]),
        (["s-{2..0}.tar"], ["s-0.tar", "s-1.tar", "s-2.tar"]),
        (["s-{0,2}.tar"], ["s-0.tar", "s-2.tar"]),
        (["s-?.tar", "b/*"], ["s-0.tar", "s-1.tar", "s-2.tar", "b/x.tar", "b/y.tar.gz"]),
        (["b/x.tar", "**/*.tar"], ["b/x.tar", "s-0.tar", "s-1.tar", "s-2.tar"]),
        (["{b/x,s-[01]}.tar"], ["b/x.tar", "s-0.tar", "s-1.tar"]),
        (["s-2.tar", "*.tar"], ["s-2.tar", "s-0.tar", "s-1.tar"]),
    ],
)
def test_patterns(folder: Path, patterns: list[str], expected: list[str]) -> None:
    shards = find_shards(patterns)
    assert names(shards, folder) == expected
    for shard in shards:
        assert shard.size == Path(shard.uri).stat().st_size
    assert find_shards([f"file://{folder}/{pattern}" for pattern in patterns]) == shards
    assert find_shards([f"{folder}/{pattern}" for pattern in patterns]) == shards


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none.tar", "'none.tar' does not exist"),
        ("*.tgz", "'*.tgz' matches no file"),
        ("s-{0..9}.tar", "'s-{0..9}.tar' names 's-3.tar', which does not exist"),
        ("{b,c}/*.tar", "'{b,c}/*.tar' ('c/*.tar') matches no file"),
        ("s-{0.tar", "'s-{0.tar'"),
        ("s-{0..999999999999}.tar", "more than 1000000"),
        ("s-{0..999}{0..999}{0..999}.tar", "more than 1000000"),
        ("b", "'b' is a folder; use b/*.tar"),
        ("b/", "use b/*.tar"),
        ("fifo", "not a regular file"),
        ("dangling.tar", "does not exist"),
        ("d*.tar", "broken link"),
        ("memory://nowhere/{0..40}.tar", "names 'memory://nowhere/0.tar', which"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, pattern: str, message: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "dangling.tar").symlink_to("nowhere")
    with pytest.raises(RequestError) as caught:
        find_shards([pattern])
    assert str(caught.value).startswith("input.shards: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_no_row_can_hold_is_told(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.tar")).write_bytes(b"")
    for pattern in (os.fsdecode(b"\xff.tar"), "?.tar"):
        with pytest.raises(
            RequestError, match=r"input.shards: the name of .*\\xff.tar is not UTF-8"
        ):
            find_shards([pattern])


@pytest.mark.parametrize(
    ("name", "program"),
    [("a.tar.zst", "zstd"), ("A.TAR.BZ2", "bzip2"), ("a.tbz2", "bzip2"), ("a.tar.xz", "xz")],
)
def test_a_compression_that_is_not_read_names_the_remedy(
    folder: Path, name: str, program: str
) -> None:
    (folder / name).write_bytes(b"")
    for pattern in (name, f"{name[:4]}*{name[-1]}"):
        with pytest.raises(
            RequestError, match=rf"{name} is compressed .*{program} -dc FILE \| gzip"
        ):
            find_shards([pattern])


def test_no_pattern_is_an_error() -> None:
    with pytest.raises(RequestError, match=r"input\.shards: the list is empty"):
        find_shards([])


@pytest.mark.parametrize(
    "uri",
    [
        "pipe:touch executed",
        "pipe:cat s-0.tar",
        "ssh://host/executed",
        "reference://executed.json",
        "simplecache::s3://bucket/a.tar",
        "tar://a.tar::memory://b.tar",
        "memory://a.tar::reference://executed.json",
        "s3://bucket/a.tar::simplecache::memory://executed",
        "github://executed",
        "data:text/plain,executed",
        "file:executed",
        "dask://executed",
        "filecache://executed",
    ],
)
def test_what_could_execute_is_refused(folder: Path, uri: str) -> None:
    for use in (lambda: find_shards([uri]), lambda: locate(uri), lambda: open_stream(uri)):
        with pytest.raises(RequestError, match=r"must never run a command .* s3"):
            use()
    assert not (folder / "executed").exists()


def test_a_colon_in_a_path_is_allowed_where_it_is_plain(folder: Path) -> None:
    (folder / "12:30.tar").write_bytes(b"")
    (folder / "a:b.tar").write_bytes(b"")
    assert names(find_shards(["./a:b.tar", "12:30.tar"]), folder) == ["a:b.tar", "12:30.tar"]


def test_one_place_has_one_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    local = [
        "x.tar",
        "./x.tar",
        "b/../x.tar",
        f"{folder}/x.tar",
        f"/{folder}/x.tar",
        f"file://{folder}/x.tar",
        f"local://{folder}/x.tar",
        "~/x.tar",
    ]
    assert {canonical_uri(uri) for uri in local} == {f"{folder}/x.tar"}
    assert canonical_uri("s3a://bucket/k.tar") == canonical_uri("s3://bucket/k.tar")
    assert canonical_uri("gcs://bucket/k.tar") == canonical_uri("gs://bucket/k.tar")
    assert canonical_uri("memory:///a/k.tar") == canonical_uri("memory://a/k.tar")
    assert canonical_uri("hdfs:///a/k.tar") == "hdfs:///a/k.tar"
    assert canonical_uri("https://h/a.tar?x=1") == "https://h/a.tar?x=1"
    for uri in (*local, "memory://a/k.tar", "https://h/a.tar?x=1"):
        assert canonical_uri(canonical_uri(uri)) == canonical_uri(uri)


def test_a_missing_driver_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("no module adlfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(RequestError, match="pip install adlfs"):
        locate("abfs://container/a.tar")


def test_memory_and_stale_listings() -> None:
    store = fsspec.filesystem("memory")
    for index in range(40):
        store.pipe_file(f"/many/{index:02d}.tar", bytes(index))
    by_glob = find_shards(["memory://many/*.tar"])
    assert [shard.size for shard in by_glob] == list(range(40))
    assert by_glob[0].uri == "memory://many/00.tar"
    assert find_shards(["memory:///many/{00..39}.tar"]) == by_glob
    store.pipe_file("/many/00.tar", b"")
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        # Drivers of object stores answer from the listings they have seen.
        patch.setattr(MemoryFileSystem, "invalidate_cache", lambda *_: calls.append("forget"))
        for pattern in ("memory://many/*.tar", "memory://many/00.tar"):
            find_shards([pattern])
    assert calls == ["forget", "forget"]
    assert find_shards(["memory://many/00.tar"])[0].fingerprint != by_glob[0].fingerprint


def test_a_link_is_as_old_as_its_target(folder: Path) -> None:
    (folder / "links").mkdir()
    link = folder / "links" / "a.tar"
    link.symlink_to(folder / "s-0.tar")
    (folder / "links" / "folder.tar").symlink_to(folder / "b")
    patterns = ["links/*.tar"], [str(link)]
    first = [find_shards(pattern) for pattern in patterns]
    assert first[0] == first[1]
    assert first[0][0].uri == str(link)
    os.utime(folder / "s-0.tar", ns=(1, 1))
    for pattern, before in zip(patterns, first, strict=True):
        assert find_shards(pattern)[0].fingerprint != before[0].fingerprint


def test_many_files_take_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3000):
        (tmp_path / f"{index:04d}.tar").touch()
        fsspec.filesystem("memory").pipe_file(f"/three/{index:04d}.tar", b"")
    questions: list[str] = []
    info = MemoryFileSystem.info

    def counted(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        questions.append(path)
        return info(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "info", counted)
    start = time.perf_counter()
    for pattern in ("{0000..2999}.tar", "*.tar"):
        assert len(find_shards([f"{tmp_path}/{pattern}"])) == 3000
        assert len(find_shards([f"memory://three/{pattern}"])) == 3000
    assert time.perf_counter() - start < 10
    assert len(questions) < 10


def test_a_folder_that_can_not_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(40):
        (folder / f"n{index}.tar").touch()

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("ListBucket")

    monkeypatch.setattr(LocalFileSystem, "ls", forbidden)
    assert len(find_shards(["n{0..39}.tar"])) == 40
    monkeypatch.setattr(LocalFileSystem, "info", forbidden)
    with pytest.raises(RequestError, match=r"may not be read \(ListBucket\); check the cred"):
        find_shards(["n{0..39}.tar"])


def test_a_failing_store_is_an_oserror(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("503")

    monkeypatch.setattr(LocalFileSystem, "info", fails)
    with pytest.raises(OSError, match="the storage failed: RuntimeError: 503"):
        find_shards(["s-0.tar"])


def test_fingerprints_of_local_files_follow_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    seen = set()
    for round_ in range(3):
        path.write_bytes(b"same size %d" % round_)
        os.utime(path, ns=(0, 1_700_000_000_000_000_000 + round_ * 1_000))
        seen.add(find_shards([str(path)])[0].fingerprint)
    assert len(seen) == 3
    assert find_shards([str(path)])[0].fingerprint in seen
    os.utime(path, ns=(0, 0))
    assert find_shards([str(path)])[0].fingerprint == "size=11 modified=0ns"


@pytest.mark.parametrize("by_content", [False, True])
def test_what_became_of_a_shard(folder: Path, by_content: bool) -> None:
    found = find_shards(["s-*.tar"])
    shards = with_content_fingerprints(found) if by_content else found
    assert states_of(shards) == ["same", "same", "same"]
    (folder / "s-0.tar").write_bytes(b"one more byte")
    (folder / "s-1.tar").unlink()
    os.utime(folder / "s-2.tar", ns=(1, 1))
    # A new time says that a shard may have changed, but nothing of a hash of its content.
    assert states_of(shards) == ["changed", "gone", "same" if by_content else "changed"]
    assert state_of(shards[2], moved=True) == "same"
    assert state_of(shards[0], moved=True) == "changed"
    assert state_of(Shard(str(folder), 1, "size=1")) == "gone", "a folder"
    assert state_of(Shard(shards[2].uri, 0, "size=None"), moved=True) == "same", "an unknown size"


def test_fingerprints_prefer_what_names_the_content() -> None:
    time_ = datetime(2026, 1, 2, tzinfo=UTC)
    one = {"size": 5, "ETag": '"abc"', "LastModified": time_}
    assert fingerprint(one) == "size=5 etag=abc"
    assert fingerprint({**one, "LastModified": None}) == fingerprint(one)
    assert fingerprint({**one, "ETag": '"abd"'}) != fingerprint(one)
    assert fingerprint({"size": 5, "md5Hash": "m", "etag": "e"}) == "size=5 md5hash=m"
    assert fingerprint({"size": 5, "LastModified": time_}) == f"size=5 modified={time_.isoformat()}"
    assert fingerprint({"size": 5, "ETag": ""}) == "size=5"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def send_head(self) -> Any:
            if self.path == "/down.tar":
                return self.send_error(503)
            if self.path == "/cut.tar":
                self.send_response(200)
                self.send_header("Content-Length", "10240")
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else bytes(5000))
                self.close_connection = True
                return None
            return super().send_head()

    handler = functools.partial(Handler, directory=str(tmp_path))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_http(server: str, tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"h-{index}.tar").write_bytes(EMPTY_TAR)
    shards = find_shards([f"{server}/h-{{0..2}}.tar"])
    assert [shard.uri for shard in shards] == [f"{server}/h-{index}.tar" for index in range(3)]
    assert {shard.size for shard in shards} == {10240}
    assert all("modified=" in shard.fingerprint for shard in shards)
    assert find_shards([f"{server}/*.tar"]) == shards
    assert list(read_samples(shards[0])) == []
    assert len(find_shards([f"{server}/h-0.tar?token=[1]"[:-4]])) == 1
    with pytest.raises(RequestError, match=r"names 'http.*h-3.tar', which does not exist"):
        find_shards([f"{server}/h-{{0..3}}.tar"])


def test_http_reads_whole_files_from_servers_without_ranges(server: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * (7 << 12)
    with tarfile.open(tmp_path / "large.tar", "w") as archive:
        member = tarfile.TarInfo("a.bin")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    (shard,) = find_shards([f"{server}/large.tar"])
    (sample,) = read_samples(shard)
    assert sample.members == {"bin": data}


def test_http_failures_are_the_storages(server: str) -> None:
    with pytest.raises(OSError, match="503"):
        find_shards([f"{server}/down.tar"])
    with pytest.raises(OSError, match=r"refused|connect"):
        find_shards(["http://127.0.0.1:9/a.tar"])
    (shard,) = find_shards([f"{server}/cut.tar"])
    with pytest.raises(OSError, match=r"cut\.tar: the storage"):
        list(read_samples(shard))


def test_a_signature_is_no_part_of_a_shard(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(EMPTY_TAR)
    host = server.removeprefix("http://")
    signed = "X-Amz-Credential=AKIA&X-Amz-Signature=5ec2e7"
    urls = [
        f"http://me:5ec2e7@{host}/a.tar",
        *(f"{server}/a.tar?{query}" for query in (signed, signed.replace("5ec", "5ed"))),
        f"{server}/a.tar?sv=2026&sp=r&sig=5ec2e7",
        f"{server}/a.tar",
    ]
    shards = [find_shards([url])[0] for url in urls]
    assert {shard.uri for shard in shards} == {f"{server}/a.tar"}
    assert len({*shards}) == 1
    assert find_shards(urls) == shards[:1]
    for shard, url in zip(shards, urls, strict=True):
        assert shard.stored == [url]
        assert list(read_samples(shard)) == []
        assert "5ec2e7" not in repr(shard) + json.dumps(shard.to_entry())
    for url in (f"{server}/down.tar?X-Amz-Signature=5ec2e7", f"http://me:5ec2e7@{host}/no.tar"):
        with pytest.raises((OSError, RequestError)) as caught:
            find_shards([url])
        assert "5ec2e7" not in str(caught.value)


def test_a_signature_is_no_part_of_a_picture(server: str, tmp_path: Path) -> None:
    # Written once: a server tells their age in whole seconds, and it belongs to the fingerprint.
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    found = []
    for signature in ("5ec2e7", "5ec3f8"):
        signed = f"X-Amz-Expires=60&X-Amz-Signature={signature}"
        rows = "".join(f"{server}/{name}.jpg?{signed}\n" for name in ("a", "b"))
        (tmp_path / "table.csv").write_text(f"image\n{rows}")
        (chunk,), _ = find_chunks([f"{server}/table.csv?{signed}"], 1)
        assert chunk.stored == [f"{server}/{name}.jpg?{signed}" for name in ("a", "b")]
        assert [sample.members["jpg"] for sample in read_samples(chunk)] == [b"a", b"b"]
        assert signature not in repr(chunk) + json.dumps(chunk.to_entry())
        found.append(chunk)
    assert found[0] == found[1]
    assert Shard.of_entry(found[0].to_entry()) == found[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/a?versionId=3&X-Amz-Signature=1&part=2", "https://h/a?versionId=3&part=2"),
        ("https://h/a?se=1&st=2", "https://h/a?se=1&st=2"),
        ("https://h/a?se=1&sig=2", "https://h/a"),
        ("https://h/a?file=b.tar", "https://h/a?file=b.tar"),
        ("https://token@h/a", "https://h/a"),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("s3://id:secret@bucket/a or 'https://u:p@h/b?token=1'", "s3://bucket/a or 'https://h/b'"),
        ("/local/a?sig=1", None),
    ],
)
def test_what_is_left_of_a_url(text: str, expected: str | None) -> None:
    assert unsigned(text) == (text if expected is None else expected)
    assert unsigned(unsigned(text)) == unsigned(text)


def test_a_slow_reader_is_no_silent_server() -> None:
    def timeout(**client: Any) -> Any:
        filesystem, _ = locate("http://h/a.tar", {"client_kwargs": client} if client else None)
        return filesystem.client_kwargs["timeout"]

    assert timeout().total is None
    assert 0 < timeout().sock_read <= 60
    assert 0 < timeout().sock_connect <= 60
    assert timeout(timeout={"sock_read": 5}).sock_read == 5
    assert timeout(timeout={"sock_read": 5}).total is None
    assert timeout(timeout=9).total == 9
    with pytest.raises(RequestError, match=r"client_kwargs\.timeout: .*sock_read, in seconds"):
        timeout(timeout={"patience": 1})


def test_how_many_images_there_are_about_is_told_by_sizes_and_lists() -> None:
    # Of 1,000 photographs of 500 x 375 pixels as `cambox pack` writes them: 110 MB.
    tar = Shard("a.tar", 110_000_000, "x")
    chunk = Shard("b", 5, "x", (ImageFile("1.jpg", None), ImageFile("2.jpg", None)))
    assert about_images([tar, tar, chunk]) == 2002
    assert about_images([tar, Shard("c.tar", 0, "x")]) is None
    assert about_images([]) == 0
