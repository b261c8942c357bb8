"""What a probe is worth, on pictures that it did not see."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score, confusion_matrix, log_loss

from cambox import __version__
from cambox.console import counted, say
from cambox.linear_probe.examples import FOLDS, Activation, Examples
from cambox.linear_probe.fit import Fit
from cambox.models.groups import ClassGroups, class_probabilities
from cambox.review.evaluate.calibration import calibration_error
from cambox.review.evaluate.report import Figure, Part

CONFUSIONS = 20
_SHOWN = 5
# A class that a picture shows has at least this probability, of several.
SHOWS = 0.5


class Quality(Part):
    """How good the probabilities of a classifier are."""

    accuracy: Figure  # softmax: the likeliest class is the label's
    balanced_accuracy: Figure  # the same, each class counting as much as another
    top_5: Figure
    mean_average_precision: Figure  # over the classes that pictures are of
    log_loss: float  # softmax: of the label; sigmoid: mean over pictures and classes
    error: float  # ECE, of the likeliest class or of all classes of several


class ClassQuality(Part):
    """One class."""

    name: str
    pictures: int
    average_precision: Figure
    recall: Figure  # of its pictures, those where it is the likeliest, or has a probability of 0.5


class Confusion(Part):
    """Pictures of one class that are taken for another, or at 0.5 for one that they do not show."""

    label: str
    predicted: str
    pictures: int


class ProbeReport(Part):
    """``report.json``: figures of held-out pictures, each judged by a layer that did not see it."""

    schema_version: Literal[1] = 1
    cambox: str
    network: str
    activation: Activation
    pictures: int
    left_out: dict[str, int]
    features: int  # numbers a picture
    background: str | None
    balanced: bool
    folds: int
    strength: float
    tried: tuple[tuple[float, float], ...]  # strengths, and the held-out loss of each
    temperature: float
    held_out: Quality
    groups: Quality | None  # of the given class groups, which need no training
    classes: tuple[ClassQuality, ...]
    confusions: tuple[Confusion, ...]
    suspects: int


def probabilities(
    logits: np.ndarray, activation: Activation, groups: ClassGroups | None = None
) -> np.ndarray:
    """(N, K) of logits, or (N, G) of groups."""
    found: np.ndarray = class_probabilities(torch.from_numpy(logits), activation, groups).numpy()
    return found


def report(
    examples: Examples,
    fit: Fit,
    network: str,
    balanced: bool,
    of_groups: np.ndarray | None,
    suspects: int,
) -> ProbeReport:
    """Judge a probe.

    Args:
        of_groups: (N, K) the probabilities of the same classes as groups of the network's own.
        suspects: pictures whose label is doubted.
    """
    held_out = probabilities(fit.held_out, examples.activation)
    return ProbeReport(
        cambox=__version__,
        network=network,
        activation=examples.activation,
        pictures=len(examples.keys),
        left_out=examples.left_out,
        features=examples.features.shape[1],
        background=examples.background,
        balanced=balanced,
        folds=FOLDS,
        strength=fit.strength,
        tried=fit.tried,
        temperature=fit.calibration.temperature,
        held_out=quality(held_out, examples.targets, examples.activation),
        groups=None
        if of_groups is None
        else quality(of_groups, examples.targets, examples.activation),
        classes=_classes(held_out, examples),
        confusions=_confusions(held_out, examples),
        suspects=suspects,
    )


def quality(found: np.ndarray, targets: np.ndarray, activation: Activation) -> Quality:
    """Of probabilities (N, K) beside targets (N, K) of 0 and 1."""
    shown = targets.sum(axis=0) > 0
    mean_ap = float(
        np.mean(average_precision_score(targets[:, shown], found[:, shown], average=None))
    )
    if activation == "sigmoid":
        flat, true = found[:, shown].ravel(), targets[:, shown].ravel()
        return Quality(
            accuracy=None,
            balanced_accuracy=None,
            top_5=None,
            mean_average_precision=mean_ap,
            log_loss=float(log_loss(true, flat, labels=[0, 1])),
            error=calibration_error(flat, true > 0),
        )
    label, best = targets.argmax(axis=1), found.argmax(axis=1)
    right = best == label
    five = np.argsort(-found, axis=1)[:, :5] == label[:, None]
    return Quality(
        accuracy=float(right.mean()),
        balanced_accuracy=float(np.mean([right[label == one].mean() for one in np.unique(label)])),
        top_5=float(five.any(axis=1).mean()) if found.shape[1] > 5 else None,
        mean_average_precision=mean_ap,
        log_loss=float(-np.log(np.maximum(found[np.arange(len(label)), label], 1e-15)).mean()),
        error=calibration_error(found.max(axis=1), right),
    )


def _predicted(found: np.ndarray, activation: Activation) -> np.ndarray:
    """(N, K) bool: the classes that pictures are taken to show."""
    if activation == "sigmoid":
        shown: np.ndarray = found >= SHOWS
        return shown
    best: np.ndarray = np.arange(found.shape[1]) == found.argmax(axis=1)[:, None]
    return best


def _classes(found: np.ndarray, examples: Examples) -> tuple[ClassQuality, ...]:
    predicted, true = _predicted(found, examples.activation), examples.targets > 0
    return tuple(
        ClassQuality(
            name=name,
            pictures=int(true[:, place].sum()),
            average_precision=float(average_precision_score(true[:, place], found[:, place]))
            if true[:, place].any()
            else None,
            recall=float(predicted[true[:, place], place].mean()) if true[:, place].any() else None,
        )
        for place, name in enumerate(examples.class_names)
    )


def _confusions(found: np.ndarray, examples: Examples) -> tuple[Confusion, ...]:
    """The pairs of classes that are confused most often, the worst first."""
    predicted, true = _predicted(found, examples.activation), examples.targets > 0
    if examples.activation == "softmax":
        ids = np.arange(found.shape[1])
        counts = confusion_matrix(true.argmax(axis=1), predicted.argmax(axis=1), labels=ids)
    else:
        # What a picture shows, beside what it is wrongly taken to show.
        counts = true.T.astype(np.int64) @ (predicted & ~true)
    np.fill_diagonal(counts, 0)
    worst = np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS]
    names = examples.class_names
    return tuple(
        Confusion(label=names[label], predicted=names[other], pictures=int(counts[label, other]))
        for label, other in zip(*np.unravel_index(worst, counts.shape), strict=True)
        if counts[label, other]
    )


def print_report(report: ProbeReport, console: Console) -> None:
    """The figures, the worst classes and the worst pairs."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    lines = [
        f"{counted(report.pictures, 'picture')} of {counted(len(report.classes), 'class')}"
        + (f"; left out: {left_out}" if left_out else ""),
        f"held out ({report.folds} parts, each judged by a layer that did not see it): "
        f"{_shown(report.held_out)}",
    ]
    if report.groups is not None:
        lines.append(f"the class groups, without training: {_shown(report.groups)}")
    measured = [one for one in report.classes if one.average_precision is not None]
    worst = sorted(measured, key=lambda one: one.average_precision or 0)[:_SHOWN]
    lines.append(
        "lowest average precision: "
        + ", ".join(
            f"{one.name} {100 * (one.average_precision or 0):.0f} ({one.pictures})" for one in worst
        )
    )
    if report.confusions:
        pairs = ", ".join(
            f"{one.label} as {one.predicted} {one.pictures}" for one in report.confusions[:_SHOWN]
        )
        lines.append(f"most confused: {pairs}")
    if report.suspects:
        lines.append(f"{counted(report.suspects, 'label')} to look at again: suspects.parquet")
    say(console, *lines)


def _shown(quality: Quality) -> str:
    figures = {
        "accuracy": quality.accuracy,
        "balanced": quality.balanced_accuracy,
        "top-5": quality.top_5,
        "mAP": quality.mean_average_precision,
    }
    shown = [f"{name} {100 * value:.1f} %" for name, value in figures.items() if value is not None]
    return ", ".join([*shown, f"log loss {quality.log_loss:.3f}", f"ECE {quality.error:.3f}"])
