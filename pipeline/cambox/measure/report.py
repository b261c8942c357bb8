"""What a measurement says: a table, the bound, advice, and what a job would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cambox.console import counted
from cambox.measure.figures import PARTS, advice, allowed, bound_by, cost_per_million, needed
from cambox.measure.measure import Measured

_WHAT_BOUNDS = {
    "storage": "the storage: shards come slower than they are worked on",
    "decode": "decoding",
    "network": "the network",
    "boxes": "the boxes",
    "Python": "none of them alone: its threads wait for each other, or for other programs",
}


@dataclass(frozen=True)
class Job:
    """What is to be done: images in so many hours, on machines of a price; None: not asked."""

    images: int | None = None
    hours: float | None = None
    price_per_hour: float | None = None


def lines(measured: Measured, job: Job) -> Iterator[str]:
    """The report, line by line."""
    worker, rates = measured.worker, measured.rates
    yield (
        f"one worker: {worker.network} in {worker.precision} on {worker.device}, "
        f"{counted(worker.threads, 'thread')}, batches of {worker.batch_size}"
        f"{f', one of {worker.on_a_gpu} that share the GPU' if worker.on_a_gpu > 1 else ''}; "
        f"{counted(measured.images, 'image')} of {counted(measured.shards, 'shard')}"
    )
    yield ""
    yield f"{'':<12}{'images/s':>12}{'ms an image':>14}"
    rows: dict[str, float] = {part: rates.of(part) for part in PARTS}
    rows["end to end"] = rates.end_to_end
    for name, rate in rows.items():
        more = f"   one stream, {rates.megabytes:.1f} MB/s" if name == "storage" else ""
        yield f"{name:<12}{rate:>12,.1f}{1000 / rate:>14.3f}{more}"
    yield ""
    if rates.stage_milliseconds:
        stages = ", ".join(
            f"{stage} {value:.2f}" for stage, value in rates.stage_milliseconds.items()
        )
        yield f"in the run, ms of a thread for an image: {stages}"
    limit = allowed(rates, worker.on_gpu)
    yield (
        f"end to end is {rates.end_to_end / limit:.0%} of the {limit:,.1f} images/s that the parts "
        "allow together"
    )
    bound = bound_by(rates, worker.on_gpu)
    yield f"bound by {_WHAT_BOUNDS[bound]}"
    for what in advice(bound, worker):
        yield f"  - {what}"
    yield from _job_lines(measured, job)


def _job_lines(measured: Measured, job: Job) -> Iterator[str]:
    found = _job(measured, job)
    here = measured.worker.here
    several = f" ({here} workers, where they do not hinder each other)" if here > 1 else ""
    yield ""
    yield f"a million images take {found['hours_per_million']:,.2f} hours of this machine{several}"
    if job.price_per_hour is not None:
        yield f"and cost {found['cost_per_million']:,.2f} at {job.price_per_hour:g} an hour"
    if job.images is not None:
        yield (
            f"{job.images:,} images in {job.hours:g} hours: "
            f"{counted(found['workers'], 'such worker')}, {counted(found['machines'], 'machine')}"
            + (f", {found['cost']:,.2f} in all" if "cost" in found else "")
        )


def to_json(measured: Measured, job: Job) -> dict[str, Any]:
    """The same for machines, in plain types."""
    worker, rates = measured.worker, measured.rates
    bound = bound_by(rates, worker.on_gpu)
    return {
        **asdict(measured),
        "allowed": allowed(rates, worker.on_gpu),
        "bound": bound,
        "advice": advice(bound, worker),
        "job": _job(measured, job),
    }


def _job(measured: Measured, job: Job) -> dict[str, Any]:
    rate, here = measured.rates.end_to_end, measured.worker.here
    found: dict[str, Any] = {"hours_per_million": cost_per_million(rate * here, 1.0)}
    if job.price_per_hour is not None:
        found["cost_per_million"] = cost_per_million(rate * here, job.price_per_hour)
    if job.images is not None and job.hours is not None:
        found["workers"] = needed(rate, job.images, job.hours)
        found["machines"] = needed(rate * here, job.images, job.hours)
        if job.price_per_hour is not None:
            found["cost"] = found["cost_per_million"] * job.images / 1e6
    return found
