"""The labels that a probe does not believe, though it never learned from them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cambox.linear_probe.examples import Examples
from cambox.linear_probe.fit import Fit
from cambox.linear_probe.report import SHOWS, probabilities


def suspects_of(examples: Examples, fit: Fit) -> pa.Table:
    """The labels that the held-out classifiers most disbelieve, the worst first.

    A label is doubted where another class is as likely as it is on average in the pictures that
    have its label (confident learning, Northcutt, Jiang and Chuang, JAIR 2021); with several
    classes a picture each class is judged by itself, and one may be missing.

    Returns:
        Columns ``key``, ``shard``, ``sample_index``; ``reason``: wrong label or missing label;
        ``class_name``: the doubted label, null where one is missing; ``likelier``: the class that
        it seems to show, null where a label is only wrong; ``doubt``: 0 to 1.
    """
    found, true = probabilities(fit.held_out, examples.activation), examples.targets > 0
    counts = np.maximum(true.sum(axis=0), 1)
    usual = np.where(true.any(axis=0), (found * true).sum(axis=0) / counts, np.inf)
    picture, label, other, doubt = (
        _doubted_one(found, true, usual)
        if examples.activation == "softmax"
        else _doubted_several(found, true, usual)
    )
    order = np.argsort(-doubt, kind="stable")
    names = np.array([*examples.class_names, None], object)
    chosen = picture[order].tolist()
    return pa.table(
        {
            "key": pa.array([examples.keys[at] for at in chosen], pa.string()),
            "shard": pa.array([examples.shards[at] for at in chosen], pa.string()),
            "sample_index": pa.array(examples.places[chosen], pa.int32()),
            "reason": pa.array(
                ["missing label" if at < 0 else "wrong label" for at in label[order].tolist()],
                pa.string(),
            ),
            "class_name": pa.array(names[label[order]], pa.string()),
            "likelier": pa.array(names[other[order]], pa.string()),
            "doubt": pa.array(doubt[order], pa.float32()),
        }
    )


_Doubts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _doubted_one(found: np.ndarray, true: np.ndarray, usual: np.ndarray) -> _Doubts:
    """Pictures, their labels, the likelier class, and by how much more likely it is."""
    label = true.argmax(axis=1)
    candidates = np.where((found >= usual) & ~true, found, -1.0)
    other = candidates.argmax(axis=1)
    every = np.arange(len(found))
    doubt = candidates[every, other] - found[every, label]
    picture = np.flatnonzero(doubt > 0)
    return picture, label[picture], other[picture], doubt[picture]


def _doubted_several(found: np.ndarray, true: np.ndarray, usual: np.ndarray) -> _Doubts:
    """The same of classes that are each there or not; -1 for the class that there is none of."""
    absent = np.maximum((~true).sum(axis=0), 1)
    usual_without = ((1 - found) * ~true).sum(axis=0) / absent
    wrong = true & (1 - found >= usual_without) & (found < SHOWS)
    missing = ~true & (found >= usual) & (found >= SHOWS)
    picture, place = np.nonzero(wrong | missing)
    is_wrong = wrong[picture, place]
    there = found[picture, place]
    return (
        picture,
        np.where(is_wrong, place, -1),
        np.where(is_wrong, -1, place),
        np.where(is_wrong, 1 - there, there),
    )
