"""``cambox detect train``: an output's boxes to a detector."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from cambox.config import ModelSettings
from cambox.console import Advance, Steps, counted, require_folder, say, write_files
from cambox.detect import BoxWeights, DetectorKind
from cambox.detect.detector import new_detector, save_detector
from cambox.detect.judge import Precision, found_and_true, precision
from cambox.detect.loss import weigh_boxes
from cambox.detect.pictures import Parts, Pictures, collated, on_device
from cambox.detect.processes import Processes, processes
from cambox.detect.training import CHECKPOINT, Epoch, Training, require_same_request
from cambox.output.reading import open_recipe
from cambox.threads import usable_cpus
from cambox.training.dataset import BoxDataset
from cambox.training.selection import Selection

REPORT_FILE = "report.json"
# What a reader of images gains beyond, a GPU does not wait for.
MOST_READERS = 16


@dataclass(frozen=True)
class TrainRequest:
    """What a detector is trained on, and how.

    Attributes:
        output: a recipe's folder, or an output with one or a ``latest``; a path or URL.
        to: the folder of checkpoint, report and detector.
        backbone: the classifier whose network it begins from; None: torchvision's own.
        weights: whether a box counts as its score is to the mean of all.
        side: the longer one, in pixels, that images are resized to.
        val: the share of the images that are held out, by the hash of their keys.
        batch_size: of each process.
        learning_rate: the highest, after warming up.
        patience: epochs without a better AP50 of the held-out part, after which it ends.
        shards_at: the folder or URL that holds the shards now, if they were moved or copied.
        readers: processes that read images beside each that trains; None: as many as CPUs allow.
    """

    output: str
    to: Path
    kind: DetectorKind = DetectorKind.fcos
    backbone: ModelSettings | None = None
    selection: Selection = field(default_factory=Selection)
    weights: BoxWeights = BoxWeights.score
    side: int = 512
    val: float = 0.1
    epochs: int = 24
    batch_size: int = 8
    learning_rate: float = 3e-4
    patience: int = 6
    seed: int = 0
    shards_at: str | None = None
    readers: int | None = None


def train(request: TrainRequest, console: Console) -> dict[str, Any]:
    """Train a detector, or go on where an earlier call was ended; of one that is done nothing more.

    Under ``torchrun`` each process calls this.

    Returns:
        The report, which is also in the folder.

    Raises:
        RequestError: the output or a shard cannot be read, no box is left, the backbone cannot be
            had, or the folder holds another training.
        ShardError: an image is not the one that was annotated.
    """
    with processes() as group:
        # One process speaks for all.
        console = console if group.first else Console(quiet=True)
        recipe = open_recipe(request.output)
        identity = _identity(request, recipe.footer.recipe_digest, group.count)
        require_folder(request.to)
        path = request.to / REPORT_FILE
        if path.exists():
            done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            require_same_request(done["request"], identity, request.to)
            say(console, f"done before: {request.to}")
            return done
        dataset = BoxDataset(request.output, request.selection, shards_at=request.shards_at)
        return _Run(request, identity, dataset, group, console).whole()


def _identity(request: TrainRequest, recipe_digest: str, count: int) -> dict[str, Any]:
    """What a training that goes on has to have in common with the one that was ended."""
    backbone = request.backbone and request.backbone.model_dump(mode="json")
    asked = asdict(replace(request, backbone=None)) | {"backbone": backbone}
    for name in ("output", "to", "readers", "shards_at"):
        del asked[name]
    # As JSON, so that it is the same once it was written and read.
    plain: dict[str, Any] = json.loads(
        json.dumps(asked | {"recipe": recipe_digest, "processes": count})
    )
    return plain


class _Run:
    """A training with its pictures.

    Attributes:
        steps: of an epoch.
        together: images of a step, of all processes.
    """

    def __init__(
        self,
        request: TrainRequest,
        identity: dict[str, Any],
        dataset: BoxDataset,
        group: Processes,
        console: Console,
    ) -> None:
        self.request, self.dataset, self.group, self.console = request, dataset, group, console
        self.parts = Parts.of(dataset, request.val)
        self.together = request.batch_size * group.count
        self.steps = max(len(self.parts.train) // self.together, 1)
        chosen, classes = self.parts.classes.tolist(), dataset.classes
        # The head begins as the seed says; what follows is seeded step by step.
        torch.manual_seed(request.seed)
        detector, self.description = new_detector(
            request.kind,
            tuple(classes.ids[place] for place in chosen),
            tuple(classes.names[place] for place in chosen),
            request.side,
            request.backbone,
        )
        self.detector = detector.to(group.device)
        weigh_boxes(detector)
        steps = self.steps * request.epochs
        self.training = Training(detector, steps, request.learning_rate, identity, group)
        self.progress = self.training.progress
        readers = min(usable_cpus() // group.on_machine, MOST_READERS)
        # On a CPU training takes all there are.
        self.readers = readers if group.device.type == "cuda" else 0
        if request.readers is not None:
            self.readers = request.readers

    def whole(self) -> dict[str, Any]:
        """Train to the end; what becomes of it."""
        request, training, group = self.request, self.training, self.group
        counts = {
            "images": len(self.parts.train),
            "held_out": len(self.parts.val),
            "left_out": dict(self.dataset.left_out),
            "classes": len(self.description.class_ids),
        }
        say(
            self.console,
            f"{counts['images']} images to train on, {counts['held_out']} held out, "
            f"{counted(len(self.description.class_ids), 'class')}, on "
            f"{counted(group.count, group.device.type)}",
        )
        if training.resume(request.to):
            self.progress = training.progress
            say(self.console, f"going on after epoch {len(self.progress.epochs)}")
        module = group.together(self.detector)
        with Steps(self.console) as steps:
            advance = steps.step("images")
            left = (request.epochs - len(self.progress.epochs)) * self.steps - self.progress.step
            while not self.progress.is_over(request.epochs, request.patience):
                self.one_epoch(module, advance, left * self.together)
                epoch = training.end_epoch(self.judged())
                training.save(request.to, at_once=True)
                say(self.console, self.line(epoch))
        self.detector.load_state_dict(training.best)
        best = self.progress.best or 0
        epochs = [asdict(epoch) for epoch in self.progress.epochs]
        report = {
            "request": training.request,
            **counts,
            "device": f"{group.count} x {group.device.type}",
            "epochs": epochs,
            "best_epoch": best + 1,
        }
        if group.first:
            about = {"trained_on": training.request, "best": epochs[best]}
            save_detector(self.detector, self.description, about, request.to)
            text = json.dumps(report, indent=1)
            write_files(request.to, {REPORT_FILE: text.encode() + b"\n", CHECKPOINT: None})
        return report

    def one_epoch(self, module: nn.Module, advance: Advance, total: int) -> None:
        """The steps of this epoch that are left.

        Args:
            total: images of all epochs that are left.
        """
        request, group, progress = self.request, self.group, self.progress
        number = len(progress.epochs)
        order = np.random.default_rng((request.seed, number)).permutation(self.parts.train)
        # The last ones that fill no batch wait for another epoch's order.
        batches = np.resize(order, (self.steps, group.count, request.batch_size))[:, group.rank]
        seed = request.seed + number * 1_000_003
        pictures = Pictures(
            self.dataset, self.parts, batches.ravel(), request.side, seed, request.weights
        )
        places = np.arange(batches.size).reshape(batches.shape)[progress.step :]
        device = group.device
        module.train()
        start = time.monotonic()
        for images, targets in self.loader(pictures, places):
            # So that a step is the same in a process that begins with it.
            torch.manual_seed(seed * 31 + progress.step * group.count + group.rank)
            with torch.autocast(device.type, torch.bfloat16, enabled=_computes_bfloat16(device)):
                losses = module(*on_device(images, targets, device))
            self.training.step(losses)
            progress.seconds += time.monotonic() - start
            start = time.monotonic()
            self.training.save(request.to)
            for _ in range(self.together):
                advance(total)

    def judged(self) -> Precision | None:
        """How well it finds the boxes of the held-out part."""
        request, group = self.request, self.group
        own = self.parts.val[group.rank :: group.count]
        pictures = Pictures(self.dataset, self.parts, own, self.description.side)
        places = np.array_split(np.arange(len(own)), math.ceil(len(own) / request.batch_size) or 1)
        found, true = found_and_true(self.detector, self.loader(pictures, places), group.device)
        parts = group.gathered((found, true))
        return precision(
            [boxes for found, _ in parts for boxes in found],
            [boxes for _, true in parts for boxes in true],
        )

    def loader(self, pictures: Pictures, batches: Iterable[np.ndarray]) -> DataLoader[Any]:
        """The pictures, batch by batch."""
        return DataLoader(
            pictures,
            batch_sampler=[batch.tolist() for batch in batches if len(batch)],
            num_workers=self.readers,
            collate_fn=collated,
            pin_memory=self.group.device.type == "cuda",
        )

    def line(self, epoch: Epoch) -> str:
        """What there is to say of an epoch."""
        done, best = len(self.progress.epochs), self.progress.best
        parts = [f"epoch {done} of {self.request.epochs}: loss {epoch.loss:.3f}"]
        if epoch.val is not None:
            better = " (the best so far)" if best == done - 1 else ""
            parts.append(f"AP50 {100 * epoch.val.ap50:.1f}, AP {100 * epoch.val.ap:.1f}{better}")
        rate = self.steps * self.together / max(epoch.seconds, 1e-9)
        return ", ".join([*parts, f"{rate:.1f} images/s"])


def _computes_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
