"""Which models of timm and torchvision have a map, of what kind, how exact, and at what cost."""

from __future__ import annotations

import fnmatch
import json
import math
import platform
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import timm
import torch
import torchvision
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cambox.errors import RequestError
from cambox.models.build import TORCHVISION, classification_models
from cambox.models.heads import HeadKind
from cambox.models.inspect import ModelFacts, inspect_model

FURTHER_MEMBERS = 30
# Many are too large to be measured on two cores; they have smaller siblings of the same make.
MAX_PARAMETERS = 100_000_000


def smallest_members() -> dict[str, list[str]]:
    """The models of each module of timm, the smallest first, encoders without a classifier last."""
    return {
        module: sorted(timm.list_models(module=module), key=lambda name: (size_of(name), name))
        for module in timm.list_modules()
    }


def size_of(name: str) -> float:
    """How many numbers a classifier's weights are, without making them; infinite for none.

    Some models stay without a classifier whatever ``num_classes`` they are given.
    """
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=1000)
    if getattr(module, "num_classes", None) == 0:
        return math.inf
    return sum(parameter.numel() for parameter in module.parameters()) or math.inf


def chosen_models(seed: int) -> list[tuple[str, str]]:
    """(family, name): the smallest member of each, further ones by chance, all of torchvision."""
    families = smallest_members()
    chosen = [(family, members[0]) for family, members in families.items()]
    others = [
        (family, name)
        for family, members in families.items()
        for name in members[1:]
        if size_of(name) <= MAX_PARAMETERS
    ]
    chosen += sorted(random.Random(seed).sample(others, FURTHER_MEMBERS))
    return chosen + [("torchvision", TORCHVISION + name) for name in classification_models()]


@dataclass(frozen=True)
class Row:
    """A model of a family: what was measured, or why it was refused."""

    family: str
    name: str
    outcome: ModelFacts | str


def probe(family: str, name: str) -> Row:
    """Build and measure one model."""
    try:
        if family == "torchvision":
            # The newest weights of its largest are for 512 pixels: too slow here.
            return Row(family, name, inspect_model(name, input_size=224))
        return Row(family, name, inspect_model(name, {"num_classes": 1000}))
    except RequestError as error:
        return Row(family, name, str(error))


def read(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    document = json.loads(path.read_text())
    rows = []
    for entry in document["models"]:
        family = entry.pop("family")
        facts = ModelFacts(**{**entry, "kind": HeadKind(entry["kind"])})
        rows.append(Row(family, facts.name, facts))
    refused = document["refused"]
    return rows + [Row(entry["family"], entry["name"], entry["reason"]) for entry in refused]


def write(rows: list[Row], folder: Path) -> None:
    """The table of the docs and the figures it is made of."""
    facts = [(row.family, row.outcome) for row in rows if isinstance(row.outcome, ModelFacts)]
    refused = [(row.family, row.name, row.outcome) for row in rows if isinstance(row.outcome, str)]
    document = {
        "models": [{"family": family, **asdict(fact)} for family, fact in facts],
        "refused": [
            {"family": family, "name": name, "reason": reason} for family, name, reason in refused
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.md").write_text(table(facts, refused))
    (folder / "models.json").write_text(json.dumps(document, indent=1) + "\n")


def table(facts: list[tuple[str, ModelFacts]], refused: list[tuple[str, str, str]]) -> str:
    """The page of the docs."""
    lines = [
        "# Models",
        "",
        "Made by `python -m research.coverage`: random weights, 5 classes, batch 2, float32, CPU.",
        "*Error* is the largest |mean of map + constant - logit| as a share of the logits' spread;",
        "*cost* is the time of the maps as a share of a plain forward pass.",
        f"timm {timm.__version__}, torchvision {torchvision.__version__}, torch "
        f"{torch.__version__}, Python {platform.python_version()}.",
        "",
        "| family | model | kind | layout | input | map | from | error | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for family, fact in facts:
        error = "" if fact.completeness_error is None else f"{fact.completeness_error:.0e}"
        lines.append(
            f"| {family} | {fact.name} | {fact.kind} | {fact.layout} | "
            f"{fact.input_height}x{fact.input_width} | {fact.map_height}x{fact.map_width} | "
            f"{fact.cut or 'head'} | {error} | {fact.map_cost:.1%} |"
        )
    if refused:
        lines += ["", "Refused:", ""]
        lines += [f"- {name} ({family}): {reason}" for family, name, reason in refused]
    return "\n".join(lines) + "\n"


def main(
    to: Annotated[Path, typer.Option(help="Folder of the table and the figures.")] = Path("docs"),
    seed: Annotated[int, typer.Option(help="Of the draw of further members.")] = 0,
    only: Annotated[
        str | None,
        typer.Option(
            help="Measure families of this pattern anew, and keep the folder's other rows."
        ),
    ] = None,
) -> None:
    """Probe one small member of each family of timm, further ones, and all of torchvision.

    Takes about twenty minutes on two CPU cores.
    """
    console = Console()
    kept = {}
    if only is not None:
        for row in read(to / "models.json"):
            if not fnmatch.fnmatchcase(row.family, only):
                kept[row.family, row.name] = row
    rows = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("choosing", total=None)
        models = chosen_models(seed)
        progress.update(task, total=len(models))
        for family, name in models:
            progress.update(task, description=name)
            row = kept.get((family, name)) or probe(family, name)
            rows.append(row)
            if isinstance(row.outcome, str):
                console.print(f"refused: {row.outcome}")
            progress.advance(task)
    write(rows, to)
    families = {row.family for row in rows if isinstance(row.outcome, ModelFacts)}
    of_timm = len(families - {"torchvision"})
    console.print(f"{of_timm} of {len(timm.list_modules())} families of timm have a map")


if __name__ == "__main__":
    typer.run(main)
