"""One training that can be killed and go on: its state, step by step, and its checkpoint."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cambox.console import write_files
from cambox.detect.judge import Precision
from cambox.detect.processes import Processes
from cambox.errors import RequestError

CHECKPOINT = "checkpoint.pt"
SECONDS_BETWEEN_CHECKPOINTS = 600.0
WEIGHT_DECAY = 0.05
GRADIENT_LIMIT = 5.0
# Of all steps, how many the learning rate rises in.
WARM_UP = 0.1


@dataclass(frozen=True)
class Epoch:
    """One pass over the pictures.

    Attributes:
        loss: the mean over its steps, without the boxes' weights.
        val: of the detector after it; None: there is nothing to judge with.
    """

    loss: float
    val: Precision | None
    seconds: float


@dataclass
class Progress:
    """How far a training is; what is not a tensor of its checkpoint.

    Attributes:
        step: of the epoch that is not over.
        losses: the sum over these steps.
        seconds: they took.
        best: the place in ``epochs`` of the weights that are kept; None: none are yet.
    """

    epochs: list[Epoch] = field(default_factory=list)
    step: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    best: int | None = None

    def is_over(self, epochs: int, patience: int) -> bool:
        """Whether all epochs are done, or it has not become better in so many."""
        done = len(self.epochs)
        judged = self.best is not None and self.epochs[self.best].val is not None
        return done >= epochs or (judged and done - 1 - (self.best or 0) >= patience)


class Training:
    """A detector's weights, optimizer and schedule, and how far they are.

    Args:
        detector: with its first weights, on the device.
        steps: of all epochs together.
        request: what makes this training another one than others; plain types.
    """

    def __init__(
        self,
        detector: nn.Module,
        steps: int,
        learning_rate: float,
        request: Mapping[str, Any],
        processes: Processes,
    ) -> None:
        self.detector, self.request, self.processes = detector, dict(request), processes
        parameters = [one for one in detector.parameters() if one.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [one for one in parameters if one.ndim > 1]},
            {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, learning_rate, weight_decay=WEIGHT_DECAY)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            learning_rate,
            # It counts the step before the first as one.
            total_steps=steps + 1,
            pct_start=WARM_UP,
            cycle_momentum=False,
        )
        self.progress = Progress()
        self.best: dict[str, torch.Tensor] = {}
        self.saved_at = time.monotonic()

    def step(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Follow the gradient of one batch's losses.

        Raises:
            RequestError: they are no numbers any more.
        """
        loss = torch.stack(list(losses.values())).sum()
        if not loss.isfinite():
            raise RequestError(
                "--lr: the loss is no number any more; lower it, remove the folder of --to and "
                "begin anew"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.detector.parameters(), GRADIENT_LIMIT)
        self.optimizer.step()
        self.schedule.step()
        self.progress.step += 1
        self.progress.losses += float(loss.detach())

    def end_epoch(self, val: Precision | None) -> Epoch:
        """Count an epoch, and keep its weights if there are none that are better.

        By AP over all IoUs: at 0.5 alone the first epochs are right already, and which of them is
        best by chance is decided by a few held-out boxes.
        """
        progress = self.progress
        epoch = Epoch(progress.losses / max(progress.step, 1), val, progress.seconds)
        progress.epochs.append(epoch)
        progress.step, progress.losses, progress.seconds = 0, 0.0, 0.0
        kept = None if progress.best is None else progress.epochs[progress.best].val
        if val is None or kept is None or val.ap > kept.ap:
            progress.best = len(progress.epochs) - 1
            self.best = {name: one.clone() for name, one in self.detector.state_dict().items()}
        return epoch

    def save(self, folder: Path, at_once: bool = False) -> None:
        """Write the checkpoint, whole or not at all, if the last one is old."""
        if not self.processes.first:
            return
        if not at_once and time.monotonic() - self.saved_at < SECONDS_BETWEEN_CHECKPOINTS:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "request": self.request,
                "progress": _plain(self.progress),
                "detector": self.detector.state_dict(),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            buffer,
        )
        write_files(folder, {CHECKPOINT: buffer.getvalue()})
        self.saved_at = time.monotonic()

    def resume(self, folder: Path) -> bool:
        """Go on where a folder's checkpoint is, if there is one.

        Raises:
            RequestError: it is of another request, or cannot be read.
        """
        path = folder / CHECKPOINT
        if not path.exists():
            return False
        try:
            # weights_only: a checkpoint is data.
            saved = torch.load(path, map_location=self.processes.device, weights_only=True)
        except Exception as error:  # torch has many kinds of its own for a bad file
            raise RequestError(
                f"--to: {path} cannot be read; remove it to begin anew, or name another folder"
            ) from error
        require_same_request(saved["request"], self.request, folder)
        self.progress = _progress(saved["progress"])
        self.best = saved["best"]
        self.detector.load_state_dict(saved["detector"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        return True


def require_same_request(
    before: Mapping[str, Any], request: Mapping[str, Any], folder: Path
) -> None:
    """See that a folder's training is the one that is asked for.

    Raises:
        RequestError: it is another one.
    """
    for name, value in request.items():
        if before.get(name) != value:
            raise RequestError(
                f"--to: {folder} holds a training whose {name} is {before.get(name)!r}, and "
                f"{value!r} is asked for; name another folder, or remove this one"
            )


def _plain(progress: Progress) -> dict[str, Any]:
    epochs = [
        [one.loss, None if one.val is None else [one.val.ap50, one.val.ap], one.seconds]
        for one in progress.epochs
    ]
    return {**vars(progress), "epochs": epochs}


def _progress(plain: Mapping[str, Any]) -> Progress:
    epochs = [
        Epoch(loss, None if val is None else Precision(*val), seconds)
        for loss, val, seconds in plain["epochs"]
    ]
    return Progress(**{**plain, "epochs": epochs})
