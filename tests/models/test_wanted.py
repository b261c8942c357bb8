"""Any mixture of wanted classes in a batch of any size gives each image the rows it has alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.batch import AnnotatedBatch, BatchAnnotator
from cambox.config import Config, ModelSettings
from cambox.models.build import build_network
from cambox.models.classifier import Classifier
from cambox.models.groups import ClassGroups
from cambox.models.load import NonlinearHead, load_classifier
from cambox.sources.decode import SampleStatus
from cambox.sources.load import LoadedSample
from cambox.threads import Stopwatch
from cambox.whole_image import WholeImages

IMAGES = 6
CLASSES = 10
# Of each kind of head one network, and what else changes how its maps are made.
LOOKS: dict[str, dict[str, Any]] = {
    "affine": {"name": "test_resnet"},
    "rectified": {"name": "torchvision/squeezenet1_1"},
    "frozen": {"name": "test_convnext"},
    "derivative": {"name": "test_convnext", "nonlinear_head": "derivative"},
    "attention": {"name": "test_vit", "input_size": 160},
    "cells": {"name": "efficientvit_b0"},
    "groups": {"name": "test_convnext", "groups": ((0, 1), *((n,) for n in range(2, CLASSES)))},
}


@cache
def annotator_of(kind: str, classes: str, min_probability: float) -> BatchAnnotator:
    config = Config.model_validate(
        {
            "input": {"shards": ["none.tar"]},
            "model": {"name": LOOKS[kind]["name"]},
            "cam": {"classes": classes, "top_k": 3, "min_probability": min_probability},
            "output": {"uri": "none"},
        }
    )
    classifier = classifier_of(kind)
    return BatchAnnotator(WholeImages(config, classifier, None), classifier, True, None, IMAGES)


@cache
def classifier_of(kind: str) -> Classifier:
    wanted = LOOKS[kind]
    nonlinear_head: NonlinearHead = wanted.get("nonlinear_head", "auto")
    model = ModelSettings(
        name=wanted["name"],
        kwargs={"num_classes": CLASSES},
        input_size=wanted.get("input_size", 64),
    )
    network = build_network(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.05, generator=generator)
    classifier = load_classifier(model, nonlinear_head=nonlinear_head, module=network)
    assert kind in (classifier.head.kind, "rectified", "groups")
    if "groups" in wanted:
        members = wanted["groups"]
        return classifier.of_groups(ClassGroups(tuple(map(str, range(len(members)))), members))
    return classifier


def samples(kind: str, labels: list[list[int] | None]) -> list[LoadedSample]:
    """Pictures, those without any labels said to have none, as where labels are wanted."""
    side = LOOKS[kind].get("input_size", 64)
    generator = np.random.default_rng(4)
    return [
        LoadedSample(
            key=f"{index}",
            index=index,
            status=SampleStatus.ok if given_labels is not None else SampleStatus.no_label,
            error=None,
            width=side,
            height=side,
            labels=None if given_labels is None else tuple(given_labels),
            pixels=generator.integers(0, 256, (side, side, 3), dtype=np.uint8),
        )
        for index, given_labels in enumerate(labels)
    ]


def annotated(annotator: BatchAnnotator, batch: list[LoadedSample], size: int) -> AnnotatedBatch:
    whole = AnnotatedBatch()
    for first in range(0, len(batch), size):
        whole.add(annotator.annotate("none.tar", batch[first : first + size], Stopwatch()))
    return whole


@pytest.mark.parametrize("kind", LOOKS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    labels=st.lists(
        st.none() | st.lists(st.integers(0, CLASSES - 2), max_size=3, unique=True),
        min_size=1,
        max_size=IMAGES,
    ),
    classes=st.sampled_from(["label", "predicted", "both"]),
    # Random weights give ten classes about a tenth each.
    min_probability=st.sampled_from([0.0, 0.11, 0.13, 1.0]),
    size=st.integers(2, IMAGES),
)
def test_rows_do_not_depend_on_what_the_others_of_the_batch_want(
    kind: str,
    labels: list[list[int] | None],
    classes: str,
    min_probability: float,
    size: int,
) -> None:
    batch, annotator = samples(kind, labels), annotator_of(kind, classes, min_probability)
    together, alone = annotated(annotator, batch, size), annotated(annotator, batch, 1)
    for row, same, given_labels in zip(together.rows, alone.rows, labels, strict=True):
        assert [one.class_id for one in row.classes] == [one.class_id for one in same.classes]
        assert [(one.class_id, one.rank) for one in row.maps] == [
            (one.class_id, one.rank) for one in same.maps
        ]
        if classes == "label":
            assert [one.class_id for one in row.maps] == (given_labels or [])
        for one, other in zip(row.maps, same.maps, strict=True):
            span = max(abs(other.low), abs(other.high)) + 1e-6
            np.testing.assert_allclose(one.restore(), other.restore(), atol=0.02 * span)
    assert sum(map(len, together.boxes)) == sum(map(len, alone.boxes))
    assert together.no_box == alone.no_box


@pytest.mark.parametrize("kind", LOOKS)
def test_a_batch_in_which_nobody_wants_a_class_has_rows_without_boxes(kind: str) -> None:
    for labels in ([None], [None, []], [[], None, []]):
        for classes in ("label", "predicted"):
            annotator = annotator_of(kind, classes, 1.0)
            found = annotated(annotator, samples(kind, labels), len(labels))
            assert [len(row.classes) for row in found.rows] == [3] * len(labels)
            assert not any(row.maps for row in found.rows)
            assert found.boxes == []
