"""Which models of timm and torchvision have a map, of what kind, how exact, and at what cost."""

from __future__ import annotations

import json
import math
import platform
import random
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import timm
import torch
import torchvision
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.errors import RequestError
from pipeline.facts import ModelFacts, inspect_model
from pipeline.models.build import TORCHVISION, classification_models

FURTHER_MEMBERS = 30
# Many are too large to be measured on two cores; they have smaller siblings of the same make.
MAX_PARAMETERS = 100_000_000


def smallest_members() -> dict[str, list[str]]:
    """The models of each module of timm that can be built without weights, the smallest first."""
    families = {}
    for module in timm.list_modules():
        sizes = {name: parameter_count(name) for name in timm.list_models(module=module)}
        families[module] = sorted(sizes, key=lambda name: (sizes[name] or math.inf, name))
    return families


def parameter_count(name: str) -> int:
    """How many numbers a model's weights are, without making them."""
    with torch.device("meta"):
        return sum(
            parameter.numel()
            for parameter in timm.create_model(name, num_classes=1000).parameters()
        )


def chosen_models(seed: int) -> list[tuple[str, str]]:
    """(family, name): the smallest member of each, further ones by chance, all of torchvision."""
    families = smallest_members()
    chosen = [(family, members[0]) for family, members in families.items()]
    others = [
        (family, name)
        for family, members in families.items()
        for name in members[1:]
        if 0 < parameter_count(name) <= MAX_PARAMETERS
    ]
    chosen += sorted(random.Random(seed).sample(others, FURTHER_MEMBERS))
    return chosen + [("torchvision", TORCHVISION + name) for name in classification_models()]


def table(facts: list[tuple[str, ModelFacts]], refused: list[tuple[str, str, str]]) -> str:
    """The page of the docs."""
    lines = [
        "# Models",
        "",
        "Made by `python -m jobs.coverage`: random weights, 5 classes, batch 2, float32, CPU.",
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
) -> None:
    """Probe one small member of each family of timm, further ones, and all of torchvision.

    Takes about twenty minutes on two CPU cores.
    """
    console = Console()
    facts: list[tuple[str, ModelFacts]] = []
    refused: list[tuple[str, str, str]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("choosing", total=None)
        models = chosen_models(seed)
        progress.update(task, total=len(models))
        for family, name in models:
            progress.update(task, description=name)
            try:
                if family == "torchvision":
                    # The newest weights of its largest are for 512 pixels: too slow here.
                    facts.append((family, inspect_model(name, input_size=224)))
                else:
                    facts.append((family, inspect_model(name, {"num_classes": 1000})))
            except RequestError as error:
                refused.append((family, name, str(error)))
                console.print(f"refused: {error}")
            progress.advance(task)
    to.mkdir(parents=True, exist_ok=True)
    (to / "models.md").write_text(table(facts, refused))
    document = {
        "models": [{"family": family, **asdict(fact)} for family, fact in facts],
        "refused": [
            {"family": family, "name": name, "reason": reason} for family, name, reason in refused
        ],
    }
    (to / "models.json").write_text(json.dumps(document, indent=1) + "\n")
    families = {family for family, _ in facts} - {"torchvision"}
    console.print(f"{len(families)} of {len(timm.list_modules())} families of timm have a map")


if __name__ == "__main__":
    typer.run(main)
