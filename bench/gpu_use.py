"""What a case takes of the GPU: memory at its peak, and how busy it is."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MILLISECONDS_BETWEEN = 100


@dataclass
class GpuUse:
    """Of one case; all None on a CPU.

    Attributes:
        peak_bytes: the most of its memory that torch had in use at once.
        busy: share of the time in which a kernel ran, as the driver tells it; None where it does
            not, as on a part of a GPU.
    """

    peak_bytes: int | None = None
    busy: float | None = None


@contextmanager
def gpu_use(device: torch.device) -> Iterator[GpuUse]:
    """Watch a GPU; what is yielded is filled in at the end."""
    use = GpuUse()
    if device.type != "cuda":
        yield use
        return
    torch.cuda.reset_peak_memory_stats(device)
    with _busy_shares(f"GPU-{torch.cuda.get_device_properties(device).uuid}") as shares:
        yield use
    use.peak_bytes = torch.cuda.max_memory_allocated(device)
    use.busy = statistics.fmean(shares) if shares else None


@contextmanager
def _busy_shares(gpu: str) -> Iterator[list[float]]:
    """What the driver says every tenth of a second, filled in at the end."""
    shares: list[float] = []
    process = subprocess.Popen(
        [
            "nvidia-smi",
            f"--id={gpu}",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            f"--loop-ms={MILLISECONDS_BETWEEN}",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield shares
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
        # "[N/A]" where it does not know.
        shares += [int(line) / 100 for line in output.split() if line.isdigit()]
