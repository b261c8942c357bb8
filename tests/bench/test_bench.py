"""What the measurements rest on, by hand."""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench.gpu_use import GpuUse, _busy_shares, gpu_use
from bench.kills import compared
from bench.mutations import MAX_PIXELS, Found, decode_all, outcomes
from bench.peers import PEER_LAYERS, Peer, PeerNetwork, _largest, run_peer
from bench.workers import simulate
from cambox.config import ModelSettings
from cambox.models.build import build_network
from cambox.sources.pack import pack


def test_the_simulated_cluster_hands_out_the_largest_first() -> None:
    seconds = np.array([2.0, 2.0, 3.0])
    # 3 beside 2 + 2: four seconds, seven of eight busy.
    assert simulate(seconds, np.array([2, 2, 3]), 2) == pytest.approx(7 / 8)
    # Handed out in the order of the input: 2 beside 2 + 3 is five seconds.
    assert simulate(seconds, np.array([1, 1, 1]), 2) == pytest.approx(7 / 10)


def test_the_peers_box_is_that_of_the_largest_component() -> None:
    score_map = np.zeros((10, 20), np.float32)
    score_map[2:6, 3:9] = 1
    score_map[8:9, 15:18] = 0.9
    assert _largest(score_map, 100, 100) == [15, 20, 30, 40]


CASES = [
    *[("mobilenetv2_100", "bfloat16", peer) for peer in PEER_LAYERS["mobilenetv2_100"].peers],
    *[
        ("swin_tiny_patch4_window7_224", "float32", peer)
        for peer in PEER_LAYERS["swin_tiny_patch4_window7_224"].peers
    ],
]


@pytest.mark.parametrize(("name", "precision", "peer"), CASES)
def test_each_peer_writes_five_boxes_of_each_image(
    tmp_path: Path, name: str, precision: str, peer: Peer
) -> None:
    generator = np.random.default_rng(0)
    sizes = {"a": (90, 60), "b": (70, 110)}
    (tmp_path / "images").mkdir()
    for key, (width, height) in sizes.items():
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{key}.jpg")
    pack(tmp_path / "images", tmp_path / "shards")
    layers = PEER_LAYERS[name]
    network = PeerNetwork(
        build_network(ModelSettings(name=name)),
        layers,
        precision,
        224,
        (0.5,) * 3,
        (0.5,) * 3,
    )
    to = tmp_path / "boxes"
    shards = list((tmp_path / "shards").glob("*.tar"))
    assert run_peer(peer, network, shards, to, batch=2, workers=0) == 2
    for line, (width, height) in zip(to.read_text().splitlines(), sizes.values(), strict=True):
        boxes = json.loads(line)
        assert len(boxes) == 5
        for left, top, box_width, box_height in boxes:
            assert 0 <= left <= left + box_width <= width
            assert 0 <= top <= top + box_height <= height
            assert box_width * box_height > 0


def test_the_driver_is_asked_how_busy_the_gpu_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's driver is played; it says what it says for as long as it is asked."""
    asked = tmp_path / "asked"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"#!/bin/sh\necho $* > {asked}\necho 40\necho 60\necho '[N/A]'\nexec sleep 60\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with _busy_shares("GPU-1") as shares:
        while not asked.exists():
            time.sleep(0.01)
        time.sleep(0.2)
    assert shares == [0.4, 0.6]
    assert "--id=GPU-1" in asked.read_text()


def test_a_cpu_has_no_gpu_to_watch() -> None:
    with gpu_use(torch.device("cpu")) as use:
        pass
    assert use == GpuUse(None, None)


def test_mutated_images_are_decoded_or_have_a_status() -> None:
    """A small share of ``python -m bench mutations``."""
    found = outcomes(range(300), 0, MAX_PIXELS)
    assert found.statuses.keys() == {"ok", "unreadable", "too_large"}
    assert found.statuses.total() == 300
    assert (found.exceptions, found.crashes) == ({}, [])
    assert 0 < found.growth < 200 << 20
    assert found.seconds < 10


def test_what_images_did_to_their_process_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two at which it dies are named, and what is raised is counted, not a status."""

    def in_a_process(work: object, numbers: Sequence[int], *rest: object) -> Found:
        if 77 in numbers:
            raise BrokenProcessPool
        return Found(statuses=Counter(ok=len(numbers)))

    monkeypatch.setattr("bench.mutations.in_a_process", in_a_process)
    found = outcomes(range(100), 0, MAX_PIXELS)
    assert (found.crashes, found.statuses["ok"]) == ([76, 77], 98)
    monkeypatch.setattr("bench.mutations.load_sample", lambda *_: bytearray(64 << 20).undefined)
    # They are of the whole process, and this one goes on.
    for name in ("os.dup2", "resource.setrlimit"):
        monkeypatch.setattr(f"bench.mutations.{name}", lambda *_: None)
    found = decode_all(range(10), 0, MAX_PIXELS)
    assert found.exceptions.keys() == set(range(10))
    assert found.growth > 50 << 20


def test_rows_are_compared_by_all_their_columns() -> None:
    rows = [{"shard": "a", "key": str(key), "score": float(key)} for key in range(4)]
    clean = {"one": as_parquet(rows[:2]), "two": as_parquet(rows[2:])}
    assert compared(clean, clean) == (0, 0, 0)
    assert compared(clean, {"one": clean["one"]}) == (2, 0, 0)
    assert compared(clean, {**clean, "three": clean["one"]}) == (0, 2, 0)
    other = as_parquet([rows[0], {**rows[1], "score": np.nextafter(1.0, 2.0)}])
    assert compared(clean, {**clean, "one": other}) == (0, 0, 1)


def as_parquet(rows: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()
