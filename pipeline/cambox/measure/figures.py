"""From measured rates to what bounds a worker, what to change, and what a job costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["storage", "decode", "network", "boxes"]
PARTS: tuple[Part, ...] = ("storage", "decode", "network", "boxes")
Bound = Literal["storage", "decode", "network", "boxes", "Python"]

# End to end comes to 0.9 and more of what its parts allow together where they do not wait for each
# other (docs/speed.md); on a GPU that was idle for the interpreter's lock it came to 0.2.
WITHOUT_WAITING = 0.7
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Worker:
    """What was measured.

    Attributes:
        device: ``cpu``, or the GPU's name.
        batch_size: images of a forward pass.
        batch_size_is_set: whether a number was asked for.
        decoder: of JPEGs, ``cpu`` or ``gpu``.
        here: how many of these workers the machine has room for.
        on_a_gpu: how many of them share a GPU; 1 without any.
    """

    network: str
    device: str
    on_gpu: bool
    threads: int
    precision: str
    batch_size: int
    batch_size_is_set: bool
    decoder: str
    here: int = 1
    on_a_gpu: int = 1


@dataclass(frozen=True)
class Rates:
    """Images a second: of each part alone, with all that a worker has, and of a whole run.

    Attributes:
        storage: one stream, as a worker reads, nothing else at work.
        network: of a GPU that several share one worker's part.
        megabytes: that it gives a second, of 1,000,000 bytes.
        stage_milliseconds: of an image in the whole run, threads added up; empty where no shard
            came to its end.
    """

    storage: float
    decode: float
    network: float
    boxes: float
    end_to_end: float
    megabytes: float
    stage_milliseconds: Mapping[str, float]

    def of(self, part: Part) -> float:
        """Of one part alone."""
        return {
            "storage": self.storage,
            "decode": self.decode,
            "network": self.network,
            "boxes": self.boxes,
        }[part]


def allowed(rates: Rates, on_gpu: bool) -> float:
    """Images a second that the parts allow together, where none waits for another.

    Reading goes on beside the others. Decoding and boxes share the CPUs, on a CPU with the network.
    """
    return min(rates.storage, _of_cpus(rates, on_gpu), rates.network if on_gpu else math.inf)


def bound_by(rates: Rates, on_gpu: bool) -> Bound:
    """What a whole run would have to be given more of to be quicker."""
    limit = allowed(rates, on_gpu)
    if rates.end_to_end < WITHOUT_WAITING * limit:
        return "Python"
    if limit == rates.storage:
        return "storage"
    if on_gpu and limit == rates.network:
        return "network"
    return min(_on_cpus(on_gpu), key=rates.of)


def _on_cpus(on_gpu: bool) -> tuple[Part, ...]:
    return ("decode", "boxes") if on_gpu else ("decode", "network", "boxes")


def _of_cpus(rates: Rates, on_gpu: bool) -> float:
    return 1 / sum(1 / rates.of(part) for part in _on_cpus(on_gpu))


def advice(bound: Bound, worker: Worker) -> list[str]:
    """What to change, in the words of settings, what helps most first."""
    found = {
        "storage": _for_storage,
        "decode": _for_decoding,
        "network": _for_the_network,
        "boxes": _for_boxes,
        "Python": _for_python,
    }[bound](worker)
    if worker.batch_size_is_set:
        found.append(
            f"engine.batch_size: auto in place of {worker.batch_size}, unless that was measured"
        )
    return found


def _for_storage(worker: Worker) -> list[str]:
    return [
        "shards nearer to the workers: the same region, or a disk of their own",
        "shards of 100 MB to 1 GB (cambox pack), of images no larger than the network needs",
        *_two_processes(worker, "each reads a stream of its own"),
    ]


def _for_decoding(worker: Worker) -> list[str]:
    of_gpu = "input.decoder: gpu (another recipe: pixels differ by 0.2 of 255)"
    return [
        *([of_gpu] if worker.on_gpu and worker.decoder != "gpu" else []),
        "more CPUs" + (" for each GPU (engine.cpus_per_worker)" if worker.on_gpu else ""),
        "smaller JPEGs in the shards: nothing larger than the network needs is of use",
    ]


def _for_the_network(worker: Worker) -> list[str]:
    half = "model.precision: bfloat16 (another recipe"
    half += ")" if worker.on_gpu else "; quicker on CPUs that compute in it, slower on others)"
    return [
        *([] if worker.on_gpu else ["a GPU"]),
        *([half] if worker.precision == "float32" else []),
        "a smaller model.input_size, or a smaller network (other recipes; see cambox evaluate)",
    ]


def _for_boxes(worker: Worker) -> list[str]:
    return [
        "fewer maps an image: cam.top_k, cam.ranks, cam.min_probability",
        "boxes.resolution: 112 (another recipe)",
        "more CPUs" + (" for each GPU (engine.cpus_per_worker)" if worker.on_gpu else ""),
    ]


def _for_python(worker: Worker) -> list[str]:
    return [
        *_two_processes(worker, "the threads of one wait for the interpreter's lock"),
        "measure again when nothing else is at work here",
    ]


def _two_processes(worker: Worker, why: str) -> list[str]:
    if worker.threads == 1:
        return []
    if worker.on_gpu:
        more = 2 * worker.on_a_gpu
        each = f"{1 / more:g}, {more} processes a GPU"
        return [f"engine.name: ray with engine.gpus_per_worker: {each}: {why}"]
    half = worker.threads // 2
    return [
        f"engine.name: ray with engine.cpus_per_worker: {half}, several processes: {why}",
    ]


def cost_per_million(rate: float, price_per_hour: float) -> float:
    """What a million images cost, in the unit of the price.

    >>> cost_per_million(rate=1000.0, price_per_hour=3.6)
    1.0

    Args:
        rate: images a second of a whole machine.
    """
    return 1e6 / rate / SECONDS_AN_HOUR * price_per_hour


def needed(rate: float, images: int, hours: float) -> int:
    """How many do so many images in so many hours, with such a rate each.

    >>> needed(rate=100.0, images=100_000_000, hours=24.0)
    12
    """
    return max(1, math.ceil(images / (rate * SECONDS_AN_HOUR * hours)))
