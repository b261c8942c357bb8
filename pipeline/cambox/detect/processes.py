"""One process, or several that torchrun started: who they are, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process among those that train one detector.

    Attributes:
        rank: from 0; the first says and writes what there is to say and to write.
        count: of all.
        on_machine: of those on this one.
    """

    rank: int
    count: int
    on_machine: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.rank == 0

    def gathered(self, item: Item) -> list[Item]:
        """What every process has, in the order of their ranks."""
        if self.count == 1:
            return [item]
        items: list[Item | None] = [None] * self.count
        distributed.all_gather_object(items, item)
        return items  # type: ignore[return-value]  # all are filled by now

    def together(self, module: nn.Module) -> nn.Module:
        """The module, whose gradients are the mean over all processes."""
        if self.count == 1:
            return module
        return DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            # A batch without a box leaves parts of a head without a gradient.
            find_unused_parameters=True,
        )


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes of ``torchrun`` (RANK, LOCAL_RANK and WORLD_SIZE), or this one alone."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    rank, count, local, on_machine = (
        int(os.environ.get(name, default)) for name, default in alone.items()
    )
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if count == 1:
        yield Processes(0, 1, 1, device)
        return
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(rank, count, on_machine, device)
    finally:
        distributed.destroy_process_group()
