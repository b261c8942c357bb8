"""How a worker behaves on its GPU: it sleeps while the GPU computes, and keeps to its share."""

from __future__ import annotations

import ctypes

import torch

# CU_CTX_SCHED_BLOCKING_SYNC in <cuda.h>.
_SLEEP = 4
# Of the GPU's memory, what CUDA itself takes for each process.
CONTEXT_BYTES = 3 << 28


def sleep_while_gpus_compute() -> bool:
    """Let the threads of this process sleep while they wait for a GPU.

    CUDA lets them ask again and again, which takes a CPU each that others could decode with: of
    eight workers on a GPU sixteen threads wait for most of their time. To be called before this
    process uses a GPU.

    Returns:
        Whether all GPUs were told so; False where there are none.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return False
    return count.value > 0 and all(_told(cuda, place) for place in range(count.value))


def _told(cuda: ctypes.CDLL, place: int) -> bool:
    gpu = ctypes.c_int()
    failed = cuda.cuDeviceGet(ctypes.byref(gpu), place)
    return not (failed or cuda.cuDevicePrimaryCtxSetFlags_v2(gpu, ctypes.c_uint(_SLEEP)))


def keep_to_share(share: float) -> None:
    """Let this process take no more of its GPU's memory than its share, from 0 to 1.

    What does not fit then fails as on a smaller GPU, so that a batch size is found that does, and
    no worker takes what others need later.
    """
    total = torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(memory_fraction(total, share))


def memory_fraction(total: int, share: float) -> float:
    """What PyTorch may take of a GPU's ``total`` bytes, beside what CUDA takes for a process.

    >>> gib = 2**30
    >>> memory_fraction(80 * gib, 0.25) * 80, memory_fraction(16 * gib, 0.125) * 16
    (19.25, 1.25)
    """
    return max(share / 2, share - CONTEXT_BYTES / total)
