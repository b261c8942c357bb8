"""What bounds a worker, what to change and what a job costs, from figures that are given."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambox.measure.figures import (
    PARTS,
    Bound,
    Rates,
    Worker,
    advice,
    allowed,
    bound_by,
    cost_per_million,
    needed,
)
from cambox.measure.measure import Measured
from cambox.measure.report import Job, lines, to_json

CPU = Worker("mobilenetv2_100", "cpu", False, 2, "float32", 4, False, "cpu")
GPU = Worker("resnet50", "NVIDIA H200", True, 16, "bfloat16", 512, False, "cpu")
# Of docs/speed.md: two cores with MobileNetV2, and ResNet-50 on an H200 with 16 CPUs.
TWO_CORES = Rates(20_000.0, 1587.0, 454.5, 6667.0, 308.6, 2200.0, {})
H200 = Rates(20_000.0, 5172.0, 13_530.0, 50_000.0, 1196.0, 2200.0, {})


def test_parts_that_share_the_cpus_add_up_and_others_do_not() -> None:
    # 0.63, 2.2 and 0.15 ms; on a GPU the network takes nothing of the CPUs.
    assert 1000 / allowed(TWO_CORES, on_gpu=False) == pytest.approx(0.63 + 2.2 + 0.15, rel=0.001)
    assert 1000 / allowed(H200, on_gpu=True) == pytest.approx(1000 / 5172 + 0.02, rel=0.001)
    slow = replace(H200, network=900.0)
    assert allowed(slow, on_gpu=True) == 900.0
    assert allowed(replace(slow, storage=50.0), on_gpu=True) == 50.0


@pytest.mark.parametrize(
    ("rates", "on_gpu", "expected"),
    [
        (TWO_CORES, False, "network"),
        # As measured: the GPU idle, and most CPUs as well.
        (H200, True, "Python"),
        (replace(H200, end_to_end=4200.0), True, "decode"),
        (replace(H200, end_to_end=900.0, network=1000.0), True, "network"),
        (replace(H200, end_to_end=900.0, boxes=1000.0), True, "boxes"),
        (replace(TWO_CORES, end_to_end=95.0, storage=100.0), False, "storage"),
        (replace(TWO_CORES, end_to_end=130.0, decode=200.0), False, "decode"),
        (replace(TWO_CORES, end_to_end=90.0, boxes=120.0), False, "boxes"),
        (replace(TWO_CORES, end_to_end=100.0), False, "Python"),
    ],
)
def test_what_bounds_is_what_there_is_least_of(rates: Rates, on_gpu: bool, expected: Bound) -> None:
    assert bound_by(rates, on_gpu) == expected


RATE = st.floats(1.0, 1e5)


@given(st.builds(Rates, RATE, RATE, RATE, RATE, RATE, RATE, st.just({})), st.booleans())
def test_more_of_what_bounds_gains_no_less_than_more_of_anything_else(
    rates: Rates, on_gpu: bool
) -> None:
    limit = allowed(rates, on_gpu)
    assert all(limit <= rates.of(part) * (1 + 1e-9) for part in PARTS)
    bound = bound_by(replace(rates, end_to_end=limit), on_gpu)
    assert bound != "Python"
    gained = {part: allowed(replace(rates, **{part: 1e12}), on_gpu) for part in PARTS}
    assert gained[bound] >= max(gained.values()) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("bound", "worker", "first"),
    [
        ("storage", CPU, "shards nearer to the workers"),
        ("decode", GPU, "input.decoder: gpu"),
        ("decode", replace(GPU, decoder="gpu"), "more CPUs for each GPU (engine.cpus_per_worker)"),
        ("decode", CPU, "more CPUs"),
        ("network", CPU, "a GPU"),
        ("network", replace(GPU, precision="float32"), "model.precision: bfloat16"),
        ("network", GPU, "a smaller model.input_size"),
        ("boxes", GPU, "fewer maps an image: cam.top_k"),
        ("Python", GPU, "engine.name: ray with engine.gpus_per_worker: 0.5, 2 processes a GPU"),
        ("storage", replace(GPU, on_a_gpu=4), "shards nearer to the workers"),
        (
            "Python",
            replace(GPU, on_a_gpu=4),
            "engine.name: ray with engine.gpus_per_worker: 0.125, 8 processes a GPU",
        ),
        ("Python", replace(GPU, on_a_gpu=8, threads=1), "measure again"),
        ("Python", replace(CPU, threads=8), "engine.name: ray with engine.cpus_per_worker: 4"),
        ("Python", replace(CPU, threads=1), "measure again"),
    ],
)
def test_advice_is_what_helps_there_the_best_first(
    bound: Bound, worker: Worker, first: str
) -> None:
    assert advice(bound, worker)[0].startswith(first)


def test_a_batch_size_that_was_set_is_doubted() -> None:
    asked = replace(GPU, batch_size=8, batch_size_is_set=True)
    assert advice("decode", asked)[-1].startswith("engine.batch_size: auto in place of 8")
    assert not any("batch_size" in line for line in advice("decode", GPU))


def test_a_job_is_counted_in_whole_workers() -> None:
    # A million seconds of one, in 10 hours.
    assert needed(rate=1.0, images=1_000_000, hours=10.0) == 28
    assert needed(rate=1000.0, images=3_600_000, hours=1.0) == 1
    assert needed(rate=1000.0, images=3_600_001, hours=1.0) == 2
    assert cost_per_million(rate=500.0, price_per_hour=9.0) == pytest.approx(5.0)


def test_a_machine_of_eight_gpus_is_eight_workers() -> None:
    rates = replace(H200, end_to_end=1000.0, stage_milliseconds={"read": 0.05, "decode": 2.5})
    measured = Measured(replace(GPU, here=8), rates, 16, 2000)
    job = Job(images=100_000_000, hours=1.0, price_per_hour=28.8)
    found = to_json(measured, job)["job"]
    # 100,000 s of one worker, and a million images are 125 s of all eight.
    assert (found["workers"], found["machines"]) == (28, 4)
    assert found["hours_per_million"] == pytest.approx(125 / 3600)
    assert (found["cost_per_million"], found["cost"]) == pytest.approx((1.0, 100.0))
    text = "\n".join(lines(measured, job))
    assert "on NVIDIA H200, 16 threads, batches of 512; 2000 images of 16 shards" in text
    assert "28 such workers, 4 machines, 100.00 in all" in text
    assert "bound by none of them alone" in text
    assert "read 0.05, decode 2.50" in text


def test_without_a_job_only_time_is_told() -> None:
    text = "\n".join(lines(Measured(CPU, TWO_CORES, 1, 300), Job()))
    assert "a million images take 0.90 hours of this machine" in text
    assert "cost" not in text.partition("a million")[2]
    assert "such worker" not in text
