"""A file of weights: read as data only, out of its wrappings, under the network's own names."""

from __future__ import annotations

import argparse
import io
import pathlib
import re
import types
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch

from cambox.console import one_line
from cambox.errors import RequestError, some_of
from cambox.sources.retry import read_whole

Tensors = Mapping[str, torch.Tensor]

# What compiling and sharding add to the names, at any depth; no network has names like these.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_USUAL_PLACE = "state_dict"
_DEPTH = 3
_NAMED = 3
# Plain data that training scripts keep beside the weights, such as timm's arguments and a best
# score; none of these types runs anything of the file's when it is made.
_PLAIN_TYPES = [
    argparse.Namespace,
    types.SimpleNamespace,
    *(getattr(pathlib, kind) for kind in ("PosixPath", "PurePosixPath", "PureWindowsPath")),
    (pathlib.PosixPath, "pathlib._local.PosixPath"),  # as Python 3.13 calls it
    *(np.dtype, np.ndarray, np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as NumPy 1 called it
    (np.zeros(1).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
]
_OF_NETWORKS = ("torch.nn.", "timm.models.", "torchvision.models.")


@dataclass(frozen=True)
class Weights:
    """A network's tensors in a checkpoint.

    Attributes:
        tensors: by the network's names, as far as they are there; others as they were called.
        remarks: what was taken out of which wrapping, and what was left, for the user.
    """

    tensors: Tensors
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """A mapping of names to tensors within a checkpoint, and the names in it before a network's."""

    path: tuple[str, ...]
    tensors: Tensors
    prefix: str
    fitting: int

    @property
    def averaged(self) -> bool:
        """Whether it is called a moving average (EMA) of the weights."""
        return "ema" in re.split(r"[._]", ".".join([*self.path, self.prefix]).lower())

    def __str__(self) -> str:
        where = ".".join(self.path)
        return " ".join(part for part in (where, self.prefix and f"{self.prefix}*") if part)


def read_weights(uri: str, names: Collection[str], averaged: bool = False) -> Weights:
    """Find a network's weights in a checkpoint, whatever a training script wrapped them in.

    Args:
        uri: a safetensors file, or one of ``torch.save`` with tensors and plain data.
        names: of the network's tensors.
        averaged: take the moving average (EMA), where it and the weights themselves are there.

    Raises:
        RequestError: it cannot be read, holds more than data, or no weights of such a network.
    """
    document = _read(uri)
    mappings = _mappings(document)
    places = [place for path, tensors in mappings for place in _places(path, tensors, names)]
    if not places:
        keys = some_of([*map(str, document)], _NAMED) if isinstance(document, Mapping) else ""
        holds = f"only {keys}" if keys else f"a {type(document).__name__}"
        raise RequestError(
            f"model.checkpoint: {uri} holds no mapping of names to tensors, {holds}; save "
            f"model.state_dict()"
        )
    most = max(place.fitting for place in places)
    fitting = [place for place in places if place.fitting == most]
    # Where a script keeps the weights twice, its state_dict is what readers take.
    fitting.sort(key=lambda place: _USUAL_PLACE not in place.path)
    wanted = [place for place in fitting if place.averaged == averaged]
    if averaged and not wanted:
        raise RequestError(
            f"model.averaged: {uri} holds no moving average of the weights; leave it false"
        )
    place = (wanted or fitting)[0]
    tensors = _named(place, names)
    return Weights(tensors, tuple(_remarks(uri, place, fitting, names)))


def _remarks(
    uri: str, place: _Place, fitting: list[_Place], names: Collection[str]
) -> Iterator[str]:
    if str(place):
        yield f"model.checkpoint: took {place} of {uri}"
    for other in fitting:
        if other is not place:
            hint = "; model.averaged=true takes it" if other.averaged else ""
            yield f"model.checkpoint: it also holds {other or 'weights without a prefix'}{hint}"
    if place.prefix:
        left = [name for name in place.tensors if not name.startswith(place.prefix)]
        left = [name for name in left if name not in names]
        if left:
            names_left = some_of(left, _NAMED)
            yield f"model.checkpoint: left out {names_left}, which are not under {place.prefix}*"


def _read(uri: str) -> object:
    try:
        data = read_whole(uri)
    except OSError as error:
        raise RequestError(f"model.checkpoint: {uri} cannot be read: {error}") from error
    try:
        if uri.lower().endswith(".safetensors"):
            return safetensors.torch.load(data)
        # weights_only: a checkpoint is data; one that would run code is refused.
        with torch.serialization.safe_globals(_PLAIN_TYPES):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # each format has many kinds of its own for a bad file
        raise RequestError(f"model.checkpoint: {uri} {_why_not(data, error)}") from error


def _why_not(data: bytes, error: Exception) -> str:
    """What is wrong with a file that does not load as data, and what to do."""
    text = one_line(error)
    if "TorchScript" in text:
        return "is a TorchScript archive; save model.state_dict() of the network that was scripted"
    # The message names the first type that is not allowed; of a zip file torch lists all.
    types_found = set(re.findall(r"GLOBAL ([\w.]+)", text))
    if types_found and zipfile.is_zipfile(io.BytesIO(data)):
        types_found.update(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    if any(name.startswith(_OF_NETWORKS) for name in types_found):
        return "holds a whole pickled model; save model.state_dict()"
    if types_found:
        return (
            f"holds more than data ({some_of(sorted(types_found), _NAMED)}), and unpickling that "
            f"would run code; where it was made, run safetensors.torch.save_model(model, "
            f"'weights.safetensors')"
        )
    return f"is not a safetensors or weights-only .pth file: {one_line(error, 200)}"


def _mappings(
    document: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """All mappings of names to tensors, with the keys that lead there."""
    if not isinstance(document, Mapping):
        return
    tensors = {
        _WRAPPERS.sub("", name): value
        for name, value in document.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        yield path, tensors
    if len(path) < _DEPTH:
        for key, value in document.items():
            if isinstance(key, str):
                yield from _mappings(value, (*path, key))


def _places(path: tuple[str, ...], tensors: Tensors, names: Collection[str]) -> Iterator[_Place]:
    """One for each prefix, of any length, under which most of the network's names are.

    That may be several: a script may keep a network and its moving average, or its teacher.
    """
    known = frozenset(names)
    counts = Counter(
        name[:start]
        for name in tensors
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        if name[start:] in known
    )
    most = max(counts.values(), default=0)
    for prefix in [prefix for prefix, count in counts.items() if count == most] or [""]:
        yield _Place(path, tensors, prefix, most)


def _named(place: _Place, names: Collection[str]) -> Tensors:
    """The tensors under the prefix, without it; and those without it whose names are known."""
    under = {
        name.removeprefix(place.prefix): value
        for name, value in place.tensors.items()
        if name.startswith(place.prefix)
    }
    beside = {name: value for name, value in place.tensors.items() if name in names}
    return beside | under
