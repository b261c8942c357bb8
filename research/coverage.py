"""Which models of timm and torchvision have a map, of what kind, how exact, and at what cost."""

from __future__ import annotations

import fnmatch
import json
import math
import platform
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import torchvision
import typer
from rich.console import Console
from rich.progress import track

from cambox.errors import RequestError
from cambox.models.build import torchvision_models
from cambox.models.inspect import ModelFacts, inspect_model

FURTHER_MEMBERS = 30
# Many are too large to be measured on two cores; they have smaller siblings of the same make.
MAX_PARAMETERS = 100_000_000

Entry = dict[str, Any]
"""A model's family with its facts, or with its name and the reason why it was refused."""


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
    return chosen + [("torchvision", name) for name in torchvision_models()]


def measured(family: str, name: str) -> Entry:
    """Build and measure one model, or say why it is refused."""
    try:
        # The newest weights of torchvision's largest are for 512 pixels: too slow here.
        given = (
            {"input_size": 224} if family == "torchvision" else {"kwargs": {"num_classes": 1000}}
        )
        return {"family": family, **asdict(inspect_model(name, **given))}  # type: ignore[arg-type]
    except RequestError as error:
        return {"family": family, "name": name, "reason": str(error)}


def write(entries: Sequence[Entry], folder: Path) -> None:
    """The table of the docs and the figures it is made of."""
    facts = [entry for entry in entries if "reason" not in entry]
    refused = [entry for entry in entries if "reason" in entry]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.md").write_text(table(facts, refused))
    document = {"models": facts, "refused": refused}
    (folder / "models.json").write_text(json.dumps(document, indent=1) + "\n")


def table(facts: Sequence[Entry], refused: Sequence[Entry]) -> str:
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
    for entry in facts:
        fact = ModelFacts(**{key: value for key, value in entry.items() if key != "family"})
        error = "" if fact.completeness_error is None else f"{fact.completeness_error:.0e}"
        lines.append(
            f"| {entry['family']} | {fact.name} | {fact.kind} | {fact.layout} | "
            f"{fact.input_height}x{fact.input_width} | {fact.map_height}x{fact.map_width} | "
            f"{fact.cut or 'head'} | {error} | {fact.map_cost:.1%} |"
        )
    if refused:
        lines += ["", "Refused:", ""]
        lines += ["- {name} ({family}): {reason}".format_map(entry) for entry in refused]
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
    kept: dict[tuple[str, str], Entry] = {}
    if only is not None:
        document = json.loads((to / "models.json").read_text())
        for entry in document["models"] + document["refused"]:
            if not fnmatch.fnmatchcase(entry["family"], only):
                kept[entry["family"], entry["name"]] = entry
    entries = []
    for family, name in track(chosen_models(seed), "probing", console=console):
        entry = kept.get((family, name)) or measured(family, name)
        entries.append(entry)
        if "reason" in entry:
            console.print(f"refused: {entry['reason']}")
    write(entries, to)
    families = {entry["family"] for entry in entries if "reason" not in entry} - {"torchvision"}
    console.print(f"{len(families)} of {len(timm.list_modules())} families of timm have a map")


if __name__ == "__main__":
    typer.run(main)
