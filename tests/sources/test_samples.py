"""A shard reads whole or not at all, and then as webdataset itself reads it."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.handlers import reraise_exception
from webdataset.tariterators import group_by_keys, tar_file_expander

from bench.flips import JPEG, KINDS, flips
from cambox.errors import ShardError
from cambox.sources.labels import LabelError, read_labels
from cambox.sources.samples import Sample, read_samples
from cambox.sources.shards import Shard, find_shards

Files = Sequence[tuple[str, bytes]]

PLAIN: Files = [
    (f"k{index}.{suffix}", b"x" * 300) for index in range(4) for suffix in ("jpg", "cls")
]


def tar_bytes(files: Files, form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read(data: bytes, name: str = "memory://samples/shard.tar") -> list[Sample]:
    fsspec.filesystem("memory").pipe_file(name.removeprefix("memory:/"), data)
    return list(read_samples(Shard(name, len(data), "")))


def read_until_error(data: bytes) -> list[Sample]:
    fsspec.filesystem("memory").pipe_file("/samples/shard.tar", data)
    samples: list[Sample] = []
    with suppress(ShardError):
        samples.extend(read_samples(Shard("memory://samples/shard.tar", len(data), "")))
    return samples


def contents(samples: Sequence[Sample]) -> list[tuple[str, dict[str, bytes]]]:
    return [(sample.key, dict(sample.members)) for sample in samples]


def as_webdataset_reads(data: bytes) -> list[tuple[str, dict[str, bytes]]]:
    source = [{"url": "u", "stream": io.BytesIO(data)}]
    files = tar_file_expander(source, handler=reraise_exception)
    return [
        (sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")})
        for sample in group_by_keys(files, handler=reraise_exception)
    ]


def last_data_end(data: bytes) -> int:
    """Where the last member's bytes end, by the standard library's random access."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return max(member.offset_data + member.size for member in archive.getmembers())


@dataclass(frozen=True)
class Archive:
    form: int
    names: list[str]
    data: bytes = field(repr=False)


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    keys = draw(st.lists(st.text("abé/ü_ 0", min_size=1, max_size=12), min_size=1, max_size=5))
    stems = [f"{'d' * draw(st.sampled_from([1, 120]))}/{key}x{i}" for i, key in enumerate(keys)]
    # Zeros in the payload are the trap: they look like the end-of-archive marker.
    payload = st.one_of(
        st.sampled_from([0, 1, 511, 512, 513, 1536]).map(bytes), st.binary(min_size=1, max_size=700)
    )
    files = [(f"{stem}.{suffix}", draw(payload)) for stem in stems for suffix in ("jpg", "CLS")]
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]))
    return Archive(form, [name for name, _ in files], tar_bytes(files, form))


@given(archives())
@settings(max_examples=60, deadline=None)
def test_a_whole_archive_reads_as_webdataset_reads_it(archive: Archive) -> None:
    data = archive.data
    samples = read(data)
    assert contents(samples) == as_webdataset_reads(data)
    assert [sample.index for sample in samples] == list(range(len(samples)))
    assert all(set(sample.members) == {"jpg", "cls"} for sample in samples)


@given(archives(), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_cut_archive_never_reads_as_a_smaller_one(archive: Archive, draw: st.DataObject) -> None:
    data = archive.data
    whole = contents(read(data))
    end = -(-last_data_end(data) // 512) * 512
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(data) // 64), min_size=5, max_size=15)))
    for cut in (*(64 * cut for cut in cuts), end, end + 512, end + 1023, end + 1024):
        if cut < end + 1024:
            assert contents(read_until_error(data[:cut])) in [whole[:n] for n in range(len(whole))]
            with pytest.raises(
                ShardError, match=r"no end-of-archive marker|end-of-archive marker;"
            ):
                read(data[:cut])
        else:
            assert contents(read(data[:cut])) == whole


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [512, 64])
def test_every_cut_is_noticed(form: int, step: int) -> None:
    files = [
        ("zeros0.jpg", bytes(1024)),
        (f"{'long' * 20}/{'long' * 20}.jpg", b"text"),
        ("ä.jpg", bytes(512)),
        ("empty.jpg", b""),
        ("zeros1.jpg", bytes(2048)),
    ]
    data = tar_bytes(files, form)
    whole = contents(read(data))
    assert len(whole) == 5
    end = -(-last_data_end(data) // 512) * 512
    for cut in range(0, len(data), step):
        if cut >= end + 1024:
            assert contents(read(data[:cut])) == whole
        else:
            with pytest.raises(ShardError, match=r"samples/shard\.tar: .* at byte \d+: "):
                read(data[:cut])


@given(archives(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_damaged_header_is_noticed(archive: Archive, draw: st.DataObject) -> None:
    data = archive.data
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as reference:
        members = reference.getmembers()
    member = draw.draw(st.sampled_from(members))
    rest = data[member.offset_data :]
    for filler in (b"\0", b"\xff", b"A"):
        damaged = data[: member.offset] + filler * 512 + data[member.offset + 512 :]
        if filler == b"\0" and not rest.strip(b"\0") and member.offset_data == member.offset + 512:
            continue  # Only zeros follow: byte for byte a whole archive that ends here.
        with pytest.raises(ShardError):
            read(damaged)


@given(archives(), st.integers(0, 10_000), st.binary(min_size=1, max_size=600))
@settings(max_examples=200, deadline=None)
def test_overwritten_bytes_give_samples_or_a_shard_error(
    archive: Archive, where: int, noise: bytes
) -> None:
    data = archive.data
    start = where % len(data)
    damaged = (data[:start] + noise + data[start + len(noise) :])[: len(data)]
    try:
        samples = read(damaged)
    except ShardError:
        return
    assert len({sample.key for sample in samples}) == len(samples)


def test_an_archive_without_the_marker_has_its_own_message() -> None:
    data = tar_bytes([("a.jpg", bytes(512))])
    with pytest.raises(ShardError, match=r"no end-of-archive marker at byte 1024: every member"):
        read(data[:1024])
    with pytest.raises(ShardError, match=r"cut or damaged at byte 1000: no end-of-archive"):
        read(data[:1000])
    with pytest.raises(ShardError, match=r"cut at byte 1536: inside the end-of-archive marker"):
        read(data[:1536])
    with pytest.raises(ShardError, match=r"cut at byte 0"):
        read(b"")


def test_two_archives_in_one_file_are_noticed() -> None:
    first = tar_bytes([("a.jpg", b"1")])
    with pytest.raises(ShardError, match=f"damaged at byte {len(first)}: data after"):
        read(first + tar_bytes([("b.jpg", b"2")]))


def test_what_is_no_archive_is_a_shard_error() -> None:
    with pytest.raises(ShardError, match=r"unusable tar header at byte 0"):
        read(b"<html>404</html>" * 100)
    with pytest.raises(ShardError, match=r"at byte 0: .*\.gz or \.tgz if it is compressed"):
        read(gzip.compress(tar_bytes(PLAIN)))


def test_gzip_whole_cut_and_damaged() -> None:
    plain = tar_bytes([(f"k{i}.jpg", bytes([i]) * 3000) for i in range(5)])
    for name in ("memory://samples/a.tar.gz", "memory://samples/a.TGZ"):
        data = gzip.compress(plain)
        assert contents(read(data, name)) == as_webdataset_reads(plain)
        for cut in (*range(0, len(data), 7), len(data) - 8, len(data) - 1):
            with pytest.raises(ShardError):
                read(data[:cut], name)
        for place in range(0, len(data), 5):
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            try:
                samples = read(bytes(damaged), name)
            except ShardError:
                continue
            assert place < 10  # Only the header's time and flags may change without effect.
            assert contents(samples) == as_webdataset_reads(plain)
        with pytest.raises(ShardError):
            read(data + b"more", name)


def test_archives_without_samples_are_fine() -> None:
    assert read(tar_bytes([])) == []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a", "a/b.d"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
    assert read(buffer.getvalue()) == []
    volume = header("label.v1", 0, b"V") + header("/", 0, tarfile.DIRTYPE)
    assert read(volume + bytes(1024)) == []
    assert (
        read(tar_bytes([("README", b"no suffix"), ("__meta__/x.jpg", b""), (".x.jpg", b"")])) == []
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "a.jpg"], "a.jpg"),
        (["a.jpg", "a.JPG"], "a.JPG"),
        (["a.jpg", "b.jpg", "a.jpg"], "'a' comes again"),
        (["a.jpg", "b.jpg", "a.cls"], "'a' comes again"),
        (["a.jpg", "a.__bad__"], "__bad__"),
        (["a.jpg", "a.__key__"], "__key__"),
        (["../../etc/a.jpg"], "leads out"),
    ],
)
def test_keys_that_clash_are_named(names: list[str], message: str) -> None:
    with pytest.raises(ShardError, match=r"samples/shard.tar") as caught:
        read(tar_bytes([(name, b"1") for name in names]))
    assert message in str(caught.value)


def test_names_are_kept() -> None:
    files = [
        ("ä/日本 x.v2.jpg", b"1"),
        ("./d.e/b.JPeG", b"2"),
        ("d/._b.jpg", b"apple's shadow of b"),
        ("d.e/c.left.jpg", b"3"),
    ]
    assert contents(read(tar_bytes(files))) == [
        ("ä/日本 x", {"v2.jpg": b"1"}),
        ("./d.e/b", {"jpeg": b"2"}),
        ("d.e/c", {"left.jpg": b"3"}),
    ]


def test_a_name_that_is_not_utf8_can_be_written_as_text() -> None:
    data = tar_bytes([("caf\udce9.jpg", b"1")], tarfile.GNU_FORMAT)
    (sample,) = read(data)
    assert sample.key == "caf\\xe9"
    assert sample.key.encode()


def test_a_pickle_is_only_bytes() -> None:
    bomb = pickle.dumps(pytest.fail)
    (sample,) = read(tar_bytes([("a.pkl", bomb), ("a.pyd", bomb)]))
    assert sample.members == {"pkl": bomb, "pyd": bomb}


def header(
    name: str, size: int, kind: bytes = tarfile.REGTYPE, form: Literal[1, 2] = tarfile.GNU_FORMAT
) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(form)


HUGE = 10 * 2**30


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("a.jpg", HUGE), f"'a.jpg' declares {HUGE} bytes"),
        (header("a.jpg", HUGE, form=tarfile.PAX_FORMAT), f"'a.jpg' declares {HUGE} bytes"),
        (header("a.bin", HUGE, b"?"), f"'a.bin' declares {HUGE} bytes"),
        (header("a.jpg", HUGE, tarfile.GNUTYPE_SPARSE), f"'a.jpg' of {HUGE} bytes is sparse"),
        (header("long", HUGE, tarfile.GNUTYPE_LONGNAME), f"extension header of {HUGE} bytes"),
        (header("pax", HUGE, tarfile.XHDTYPE), f"extension header of {HUGE} bytes"),
    ],
)
def test_huge_members_are_refused_without_reading_them(data: bytes, message: str) -> None:
    read(tar_bytes(PLAIN))
    tracemalloc.start()
    with pytest.raises(ShardError, match=r"memory://samples/shard.tar") as caught:
        read(data + bytes(1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in str(caught.value)
    assert peak < 20 * 2**20


def test_the_member_limit_is_a_parameter() -> None:
    data = tar_bytes([("a.jpg", bytes(101))])
    fsspec.filesystem("memory").pipe_file("/samples/limit.tar", data)
    shard = Shard("memory://samples/limit.tar", len(data), "")
    assert len(list(read_samples(shard, max_sample_bytes=101))) == 1
    with pytest.raises(ShardError, match=r"declares 101 bytes, the limit is 100"):
        list(read_samples(shard, max_sample_bytes=100))


def test_pax_sparse_members_and_links_are_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(HUGE)}
        archive.addfile(member)
    with pytest.raises(
        ShardError, match=r"refused at byte 0: a member is sparse; re-pack it whole"
    ):
        read(buffer.getvalue())
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        with pytest.raises(ShardError, match=r"'b.jpg' is a link"):
            read(header("b.jpg", 0, kind) + bytes(1024))


def test_a_lost_long_name_is_not_passed_over() -> None:
    name = f"{'long' * 30}.jpg"
    data = tar_bytes([(name, b"1")], tarfile.GNU_FORMAT)
    assert [sample.key for sample in read(data)] == ["long" * 30]
    with pytest.raises(ShardError, match=r"a member without a name"):
        read(data.replace(name.encode() + b"\0", bytes(len(name) + 1), 1))


def test_a_flipped_bit_of_a_header_loses_no_sample_in_silence() -> None:
    """One in 37 of the 73,728 that ``python -m bench flips`` turns."""
    outcomes = Counter(outcome for kind in KINDS for outcome in flips(kind, 37))
    assert outcomes.keys() == {"refused", "read"}
    assert outcomes.total() > 1900


def test_a_shard_of_which_a_bit_was_flipped_is_refused(shared: Path) -> None:
    path = shared / "data" / "attacks" / "bitflip.tar"
    if not path.is_file():
        pytest.skip("needs the attacks in ../shared, which are not here")
    with pytest.raises(ShardError, match=r"unusable tar header .* does not parse"):
        list(read_samples(Shard(str(path), path.stat().st_size, "")))


def test_a_key_with_a_newline_is_a_key_like_others() -> None:
    names = ["a\nb.jpg", "v1.0\nfinal/c.jpg", "v1.0/\nd.jpg", "e.jpg\n"]
    found = read(tar_bytes([(name, b"1") for name in names], tarfile.PAX_FORMAT))
    assert [sample.key for sample in found] == ["a\nb", "v1.0\nfinal/c", "v1.0/\nd", "e"]


def test_the_beginning_of_a_label_that_is_too_long_is_all_that_is_read() -> None:
    files = [("a.jpg", b"1"), ("a.cls", b"7 " * (8 << 20)), ("b.jpg", b"2")]
    data = tar_bytes(files)
    tracemalloc.start()
    first, second = read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (second.key, second.members) == ("b", {"jpg": b"2"})
    with pytest.raises(LabelError, match="cls: more than 1048576 bytes"):
        read_labels(first.members, "cls", "jpg")
    # Beside the file itself, which lies in memory here.
    assert peak - len(data) < 6 * 2**20


def test_an_image_whose_unchecked_name_hides_it_makes_the_shard_unreadable() -> None:
    long = "n" * 120
    for name in (f"{long}/jpg", f"{long}/.jpg"):
        with pytest.raises(ShardError, match="no checksum covers that name"):
            read(tar_bytes([(name, JPEG)], tarfile.PAX_FORMAT))
        # What is no image, or has its name in the header itself, is passed over as ever.
        assert read(tar_bytes([(name, b"notes"), ("a/jpg", JPEG)], tarfile.PAX_FORMAT)) == []


def test_a_chain_of_extension_headers_is_a_shard_error() -> None:
    with pytest.raises(ShardError):
        read((header("x", 12, tarfile.XHDTYPE) + b"12 aaaa=bbb\n".ljust(512, b"\0")) * 3000)


def test_short_storage_is_not_the_shards_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(PLAIN))
    (shard,) = find_shards([str(path)])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(OSError, match=r"gave 3000 bytes where it had listed 10240"):
        list(read_samples(shard))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        list(read_samples(shard))


def test_errors_of_the_storage_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error
            self.reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise self.error
            return tar_bytes(PLAIN)[:2048]

    for error in (ConnectionResetError("gone"), RuntimeError("the driver's own error")):
        monkeypatch.setattr(
            "cambox.sources.stream.open_stream", lambda *_, error=error: Broken(error)
        )
        with pytest.raises(OSError, match=r"gone|storage failed: RuntimeError"):
            list(read_samples(Shard("memory://x.tar", 10240, "")))


def test_bytes_are_counted_as_stored() -> None:
    for name, data in (("c.tar", tar_bytes(PLAIN)), ("c.tgz", gzip.compress(tar_bytes(PLAIN)))):
        fsspec.filesystem("memory").pipe_file(f"/samples/{name}", data)
        read: list[bytes] = []
        shard = Shard(f"memory://samples/{name}", len(data), "")
        assert len(list(read_samples(shard, on_bytes=read.append))) == 4
        assert b"".join(read) == data


def test_one_sample_at_a_time_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with tarfile.open(path, "w") as archive:
        for index in range(40):
            member = tarfile.TarInfo(f"{index}.jpg")
            member.size = 1 << 20
            archive.addfile(member, io.BytesIO(bytes(1 << 20)))
    (shard,) = find_shards([str(path)])
    tracemalloc.start()
    assert sum(len(sample.members["jpg"]) for sample in read_samples(shard)) == 40 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_memory_hardly_grows_with_the_number_of_samples() -> None:
    peaks = []
    for count in (3000, 7000):
        data = tar_bytes([(f"{index}.jpg", b"") for index in range(count)])
        fsspec.filesystem("memory").pipe_file("/samples/many.tar", data)
        shard = Shard("memory://samples/many.tar", len(data), "")
        tracemalloc.start()
        assert sum(1 for _ in read_samples(shard)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The keys have to be remembered; the headers would take 2 MB.
    assert peaks[1] - peaks[0] < 2**20
