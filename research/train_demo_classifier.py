"""Train the small multi-label classifier that ships with the demo, from image labels alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import safetensors.torch
import timm
import torch
import typer
from rich.console import Console
from rich.progress import Progress

import cambox
from cambox.demo import CLASSIFIER
from research.training import (
    BATCH_SIZE,
    DEMO,
    FIRST_HELD_OUT_SEED,
    FIRST_TRAINING_SEED,
    MEAN,
    SIDE,
    STD,
    load_scenes,
    logits_of,
    mean_average_precision,
    train,
)

_PEAK_LEARNING_RATE = 4e-3


def main(
    to: Annotated[Path, typer.Option(help="Where the weights go.")] = CLASSIFIER,
    scenes: Annotated[int, typer.Option(min=BATCH_SIZE, help="Scenes to train on.")] = 5000,
    held_out: Annotated[int, typer.Option(min=1, help="Scenes to score on.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the scenes.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and changes.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; they shape rounding.")] = 2,
) -> None:
    """Train the demo's classifier on generated scenes and write its weights.

    Takes four minutes on two CPU cores that do nothing else. The same options, versions and kind
    of processor give the same file. The classifier sees which classes are in a picture, never
    where they are.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    console = Console()
    start = time.monotonic()
    with Progress(console=console) as progress:
        training = load_scenes(FIRST_TRAINING_SEED, scenes, progress, "Training scenes")
        torch.manual_seed(seed)
        model: torch.nn.Module = timm.create_model(DEMO.name, **DEMO.kwargs)
        model = train(model, training, epochs, _PEAK_LEARNING_RATE, seed, progress)
        judged = load_scenes(FIRST_HELD_OUT_SEED, held_out, progress, "Held-out scenes")
    logits = logits_of(model, judged.images)
    precision = mean_average_precision(logits, judged.labels)
    accuracy = ((logits > 0) == (judged.labels > 0.5)).mean()
    made_by = {
        "script": "research/train_demo_classifier.py",
        "model": DEMO.name,
        "kwargs": DEMO.kwargs,
        "input": f"{SIDE} pixels, mean {MEAN}, std {STD}",
        "training_scenes": f"{scenes} from seed {FIRST_TRAINING_SEED}",
        "training": f"{epochs} epochs, seed {seed}, {threads} threads",
        "held_out_scenes": f"{held_out} from seed {FIRST_HELD_OUT_SEED}",
        "held_out_mean_average_precision": f"{precision:.4f}",
        "held_out_accuracy": f"{accuracy:.4f}",
        "versions": f"cambox {cambox.__version__}, torch {torch.__version__}, timm "
        f"{timm.__version__}, numpy {np.__version__}, opencv {cv2.__version__}",
    }
    # One entry, because safetensors writes several in an order of chance.
    metadata = {"made_by": json.dumps(made_by)}
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(safetensors.torch.save(state, metadata))
    console.print(
        f"{to}: {to.stat().st_size / 1e6:.2f} MB, held-out mean average precision "
        f"{precision:.4f}, accuracy {accuracy:.4f}, "
        f"{time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
