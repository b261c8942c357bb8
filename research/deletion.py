"""Do maps name what the network looks at? Cells with the highest scores are painted over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import nn

from research.candidates import CANDIDATES, Candidate, load_weights
from research.hit_rates import Interval, interval_over, table
from research.map_variants import (
    BATCH_SIZE,
    VARIANTS,
    HeldOut,
    classifier_from,
    held_out_scenes,
    maps_of,
    of_pairs,
)
from research.training import as_input, logits_of

CELLS = 16
SHARES = tuple(range(0, 51, 5))
"""Per cent of the cells that are painted over."""


@dataclass(frozen=True)
class Deletion:
    """What painting over cells in one order does to the probability of the class.

    Attributes:
        pairs: (image, class) pairs that count.
        probabilities: mean over the pairs, by the share of cells that is gone, ``SHARES``.
        area: mean of each pair's curve; the lower, the better the order names the evidence.
        area_interval: 95 %, over pictures.
        against_own: this area minus that of the network's own map; positive: the map is better.
        against_own_interval: None for the map itself.
    """

    network: str
    order: str
    pairs: int
    probabilities: tuple[float, ...]
    area: float
    area_interval: Interval
    against_own: float
    against_own_interval: Interval | None


def painted_over(
    images: NDArray[np.uint8], ranked: NDArray[np.int64], cells: int
) -> NDArray[np.uint8]:
    """The pictures with their first cells in the picture's mean colour.

    Args:
        images: (N, S, S, 3).
        ranked: (N, 256), the cells of a 16 x 16 grid, row by row, first to be painted over first.
        cells: how many.
    """
    gone = np.zeros((len(images), CELLS * CELLS), dtype=np.bool_)
    np.put_along_axis(gone, ranked[:, :cells], True, axis=1)
    side = images.shape[1] // CELLS
    mask = gone.reshape(-1, CELLS, CELLS).repeat(side, axis=1).repeat(side, axis=2)
    colour = images.mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    return np.where(mask[..., None], colour, images)


def probabilities(
    module: nn.Module, images: NDArray[np.uint8], class_ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N,): of one class for each picture."""
    logits = torch.from_numpy(logits_of(module, images)).double()
    return np.asarray(logits.sigmoid().gather(1, torch.from_numpy(class_ids)[:, None])[:, 0])


def attention_of_the_class_token(
    module: nn.Module, images: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """(N, 256): how much the class token attends to each patch in the last block, of all heads.

    It is the same for all classes: what tools show as a transformer's attention map.
    """
    attention = module.get_submodule("blocks.3.attn")
    entered: list[torch.Tensor] = []

    def record(_: nn.Module, args: object, output: torch.Tensor) -> None:
        entered.append(output)

    handle = attention.get_submodule("qkv").register_forward_hook(record)
    with torch.inference_mode():
        for batch in np.array_split(images, -(-len(images) // BATCH_SIZE)):
            module(as_input(batch))
    handle.remove()
    heads = int(attention.num_heads)  # type: ignore[arg-type]
    qkv = torch.cat(entered)
    parts = qkv.view(*qkv.shape[:2], 3, heads, -1)
    query, key, _ = parts.permute(2, 0, 3, 1, 4)
    scores = query[:, :, :1] @ key.transpose(2, 3) * query.shape[3] ** -0.5
    return np.asarray(scores.softmax(dim=3)[:, :, 0, 1:].mean(dim=1).double().numpy())


def orders(
    candidate: Candidate, module: nn.Module, held_out: HeldOut
) -> dict[str, NDArray[np.int64]]:
    """In which order the cells of each pair's picture go, (P, 256) for each way to choose."""
    classifier = classifier_from(candidate, module, "auto")
    maps = maps_of(candidate, classifier, VARIANTS[0], held_out.images)
    own = of_pairs(maps, held_out).reshape(len(held_out.pairs), -1).astype(np.float64)
    chance = np.random.default_rng(0).random(own.shape)
    scores = {"own map": own, "by chance": chance, "own map, least first": -own}
    if "attention" in str(classifier.head.kind):
        attention = attention_of_the_class_token(module, held_out.images)
        scores["attention of the class token"] = attention[[p.image for p in held_out.pairs]]
    return {title: np.argsort(-values, axis=1) for title, values in scores.items()}


def measure(
    candidate: Candidate, module: nn.Module, held_out: HeldOut, advance: Callable[[], None]
) -> list[Deletion]:
    """Delete in each order. Pairs whose class the network does not see (p < 0.5) say nothing."""
    pictures = np.array([pair.image for pair in held_out.pairs])
    class_ids = np.array([pair.class_id for pair in held_out.pairs])
    images = held_out.images[pictures]
    seen = probabilities(module, images, class_ids) >= 0.5
    images, class_ids, pictures = images[seen], class_ids[seen], pictures[seen]
    curves = {}
    for title, ranked in orders(candidate, module, held_out).items():
        steps = []
        for share in SHARES:
            count = round(share / 100 * CELLS * CELLS)
            left = painted_over(images, ranked[seen], count)
            steps.append(probabilities(module, left, class_ids))
            advance()
        curves[title] = np.stack(steps, axis=1)
    own = curves["own map"].mean(axis=1)
    results = []
    for title, curve in curves.items():
        areas = curve.mean(axis=1)
        results.append(
            Deletion(
                candidate.name,
                title,
                len(curve),
                tuple(float(value) for value in curve.mean(axis=0)),
                float(areas.mean()),
                _interval(areas, pictures),
                float((areas - own).mean()),
                None if title == "own map" else _interval(areas - own, pictures),
            )
        )
    return results


def _interval(values: NDArray[np.float64], pictures: NDArray[np.int64]) -> Interval:
    """Of the mean over pairs."""
    return interval_over(pictures, lambda counts: float(counts @ values / counts.sum()))


def main(
    weights: Annotated[Path, typer.Argument(help="Folder that compare_networks trained into.")],
    to: Annotated[Path, typer.Option(help="The figures, as JSON.")] = Path("docs/deletion.json"),
    pictures: Annotated[int, typer.Option(help="Scenes to paint over.")] = 240,
) -> None:
    """Paint over the cells that a map scores highest and see how the class's probability falls."""
    console = Console()
    results: list[Deletion] = []
    with Progress(console=console) as progress:
        held_out = held_out_scenes(pictures, progress)
        for candidate in CANDIDATES:
            module = load_weights(candidate, weights / candidate.file_name).eval()
            task = progress.add_task(candidate.name, total=None)
            results += measure(candidate, module, held_out, lambda: progress.advance(task))  # noqa: B023
            progress.remove_task(task)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    console.print(table(results), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
