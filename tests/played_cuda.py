"""CUDA graphs played on a CPU: what is recorded is computed again, into the same memory.

As on a GPU a graph knows addresses only. So who reads what it made after the next replay reads
something else, and what Python does beside the recorded operations is not done again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

# Numbers that come from the device or go there: a GPU would have to be waited for.
_WAITING = ("item", "_local_scalar_dense", "lift_fresh", "nonzero")


class Operations(TorchDispatchMode):
    """Notes what is computed."""

    def __init__(self, waits_allowed: bool = True) -> None:
        super().__init__()
        self.waits_allowed = waits_allowed
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING and not self.waits_allowed:
            raise RuntimeError(f"CUDA error: {name} is not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @property
    def names(self) -> list[str]:
        """Of what was computed."""
        return [func.overloadpacket.__name__ for func, *_ in self.calls]


class PlayedGraph:
    """``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.recorded = Operations(waits_allowed=False)
        self.replays = 0

    def replay(self) -> None:
        """Compute all of it again."""
        self.replays += 1
        with _disable_current_modes():
            for func, args, kwargs, before in self.recorded.calls:
                given = {_address(one) for one in _tensors((args, kwargs))}
                now = func(*args, **kwargs)
                for old, new in zip(_tensors(before), _tensors(now), strict=True):
                    # What is a view of something, or was changed in place, has its value already.
                    if _address(old) not in given:
                        old.copy_(new)


class PlayedCuda:
    """What the project asks of ``torch.cuda`` for graphs.

    Attributes:
        graphs: in the order in which they were recorded.
        streams, pools: of each.
        waits: what is to happen where the GPU would be waited for; 0: nothing.
        fits: how many graphs there is memory for.
    """

    def __init__(self) -> None:
        self.graphs: list[PlayedGraph] = []
        self.streams: list[Any] = []
        self.pools: list[Any] = []
        self.waits: int | str = 0
        self.fits = 1000

    @contextmanager
    def graph(
        self, graph: PlayedGraph, pool: Any, stream: Any, capture_error_mode: str
    ) -> Iterator[None]:
        """``torch.cuda.graph``."""
        assert capture_error_mode == "thread_local"
        assert self.waits == 0
        if len(self.graphs) == self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.graphs.append(graph)
        self.pools.append(pool)
        self.streams.append(stream)
        with graph.recorded:
            yield

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        """``torch.cuda.stream``."""
        yield


def play(monkeypatch: pytest.MonkeyPatch) -> PlayedCuda:
    """From now on the forward passes of this process are recorded as on a GPU."""
    played = PlayedCuda()
    for name, value in {
        "CUDAGraph": PlayedGraph,
        "Stream": lambda device: SimpleNamespace(device=device),
        "graph_pool_handle": object,
        "synchronize": lambda device: None,
        "graph": played.graph,
        "stream": played.stream,
        "get_sync_debug_mode": lambda: played.waits,
        "set_sync_debug_mode": lambda mode: setattr(played, "waits", mode),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("cambox.models.ways.on_gpu", lambda classifier: True)
    return played


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    # Weights that oneDNN has laid out for itself have no address.
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()
