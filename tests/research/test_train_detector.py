"""The parts of research/train_detector.py that a figure depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors

from cambox.training.dataset import BoxDataset
from cambox.training.sample import DetectionSample
from makers import publish_rows
from research.train_detector import (
    Result,
    average_precision,
    centre_boxes,
    pictures,
    table,
)


class Oracle(torch.nn.Module):
    """Gives each picture in turn the boxes that it was made with."""

    def __init__(self, samples: list[DetectionSample], shift: float) -> None:
        super().__init__()
        self.answers = iter(samples)
        self.shift = shift

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        (image,) = images
        assert float(image.max()) <= 1
        _, target = next(self.answers)
        boxes = target["boxes"].as_subclass(torch.Tensor) + self.shift
        return [{"boxes": boxes, "labels": target["labels"], "scores": torch.ones(len(boxes))}]


def samples(count: int) -> list[DetectionSample]:
    """Pictures with one box of 40 x 40 and label 1 or 2 each."""
    made: list[DetectionSample] = []
    for number in range(count):
        corners = torch.tensor([[10.0, 20.0, 50.0, 60.0]])
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(128, 128))
        image = tv_tensors.Image(torch.full((3, 128, 128), 255, dtype=torch.uint8))
        labels = torch.tensor([number % 2 + 1])
        target = {"boxes": boxes, "labels": labels, "scores": torch.ones(1)}
        made.append((image, {**target, "image_id": number, "key": str(number)}))  # type: ignore[typeddict-item]
    return made


@pytest.mark.parametrize(
    ("shift", "at_half", "over_all"),
    # Moved by 4 of 40 along both axes the IoU is 36 ** 2 / (2 * 40 ** 2 - 36 ** 2) = 0.681: above
    # COCO's 0.5, 0.55, 0.6 and 0.65 of ten. Moved by 10 it is 0.39, above none.
    [(0.0, 1.0, 1.0), (4.0, 1.0, 0.4), (10.0, 0.0, 0.0)],
)
def test_average_precision_is_that_of_coco(shift: float, at_half: float, over_all: float) -> None:
    judged = samples(6)
    found = average_precision(Oracle(judged, shift), judged)
    assert found == pytest.approx((at_half, over_all), abs=1e-6)


def test_centre_boxes_are_in_the_middle_once_for_each_class(tmp_path: Path) -> None:
    published = publish_rows(tmp_path)
    dataset = BoxDataset(str(published.output))
    centred = centre_boxes(dataset)
    for row in published.with_boxes:
        # Two shards have a picture of this key.
        if row.key == "dog/1":
            continue
        boxes = centred[row.key]
        assert row.width is not None
        assert row.height is not None
        assert boxes.class_id.tolist() == sorted({item.class_id + 1 for item in row.objects})
        expected = [0.1 * row.width, 0.1 * row.height, 0.9 * row.width, 0.9 * row.height]
        assert boxes.corners.tolist() == [pytest.approx(expected)] * len(boxes)


def test_other_boxes_shrink_with_their_picture(tmp_path: Path) -> None:
    published = publish_rows(tmp_path)
    dataset = BoxDataset(str(published.output))
    given = {row.key: centre_boxes(dataset)[row.key] for row in published.with_boxes}
    for image, target in pictures(dataset, given):
        assert image.shape == (3, 128, 128)
        corners = target["boxes"].as_subclass(torch.Tensor)
        middle = torch.tensor([12.8, 12.8, 115.2, 115.2])
        if target["key"] != "dog/1":
            assert torch.allclose(corners, middle.expand_as(corners), atol=1e-3)


def test_the_table_compares_means_with_the_true_boxes() -> None:
    results = [
        Result(kind, seed, share, share / 2, 1.0)
        for kind, shares in {"ours": (0.7, 0.8), "true": (0.9, 0.7), "centre": (0.2, 0.2)}.items()
        for seed, share in enumerate(shares)
    ]
    rows = table(results).splitlines()
    assert rows[2] == "| the boxes that cambox found | 70.0, 80.0 | 75.0 | 0.94 |"
    assert rows[3] == "| the true boxes | 90.0, 70.0 | 80.0 | 1.00 |"
    assert rows[4].endswith("| 20.0, 20.0 | 20.0 | 0.25 |")
