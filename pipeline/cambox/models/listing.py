"""``cambox models``: which models have a map, of what kind, how fine, and at what cost."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import timm
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cambox.errors import RequestError
from cambox.models.build import TORCHVISION, classification_models
from cambox.models.inspect import ModelFacts, inspect_model


@dataclass(frozen=True)
class RefusedModel:
    """A model without a map, and why."""

    name: str
    reason: str


def matching_models(pattern: str, limit: int) -> list[str]:
    """The names of timm and torchvision (``torchvision/<name>``) that fit a shell pattern.

    Raises:
        RequestError: none fits, or more than ``limit``.
    """
    names = [*timm.list_models(), *(TORCHVISION + name for name in classification_models())]
    fitting = fnmatch.filter(names, pattern)
    if not fitting:
        raise RequestError(
            f"PATTERN: none of {len(names)} models is called {pattern}; try '*{pattern}*'"
        )
    if len(fitting) > limit:
        raise RequestError(
            f"PATTERN: {len(fitting)} models are called {pattern}, and each is built and run; "
            f"narrow the pattern, or set --limit {len(fitting)}"
        )
    return fitting


def inspect_models(names: Sequence[str], console: Console) -> Iterator[ModelFacts | RefusedModel]:
    """Build and probe models with random weights, one after the other."""
    for name in track(names, "probing", console=console, transient=True):
        try:
            yield inspect_model(name)
        except RequestError as error:
            yield RefusedModel(name, str(error))


def print_models(inspected: Sequence[ModelFacts | RefusedModel], console: Console) -> None:
    """A line for each model."""
    table = Table("model", "kind", "layout", "input", "map", "parameters", "error", "cost")
    refused = [entry for entry in inspected if isinstance(entry, RefusedModel)]
    for entry in inspected:
        if isinstance(entry, RefusedModel):
            continue
        error = entry.completeness_error
        table.add_row(
            entry.name,
            str(entry.kind),
            entry.layout,
            f"{entry.input_height}x{entry.input_width}",
            f"{entry.map_height}x{entry.map_width}",
            f"{entry.parameters / 1e6:.1f} M",
            "" if error is None else f"{error:.0e}",
            f"{entry.map_cost:.1%}",
        )
    if len(refused) < len(inspected):
        console.print(table)
        console.print(
            "error: of mean of map + constant = logit, as a share of the logits' spread; "
            "cost: of five maps, as a share of a forward pass, here on the CPU",
            soft_wrap=True,
        )
    for entry in refused:
        console.print(f"no map: {entry.reason}", highlight=False, markup=False, soft_wrap=True)


def to_json(inspected: Sequence[ModelFacts | RefusedModel]) -> str:
    """One JSON list; a model without a map has a ``reason``."""
    return json.dumps([asdict(entry) for entry in inspected], indent=1)
