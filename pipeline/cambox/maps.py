"""The score maps of the classes that are wanted, made as the head and the settings ask for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cambox.cams.paper import thresholded_average
from cambox.cams.refine import affinity, propagate, towards_centre
from cambox.cams.score_maps import class_score_maps, class_weights, image_score_maps
from cambox.config_cam import CamSettings
from cambox.errors import RequestError
from cambox.models.aspect import Frame
from cambox.models.classifier import Classifier, Scores
from cambox.models.heads import AffineHead, PooledHead, TailHead
from cambox.models.tail import contributions

# Of the input, for each cell of a refined map.
PIXELS_PER_CELL = 16


class MapMaker:
    """Scores classes and cells of one classifier under settings that fit its kind of head."""

    def __init__(self, settings: CamSettings, classifier: Classifier) -> None:
        self._settings = settings
        preprocessing = classifier.preprocessing
        self._whole = Frame.whole(preprocessing.height, preprocessing.width)
        self._head = classifier.head
        self._groups = classifier.groups
        self._weight = (
            class_weights(self._head.weight, settings.truncate, settings.shift)
            if isinstance(self._head, AffineHead)
            else None
        )

    def logits(self, scores: Scores) -> torch.Tensor:
        """(B, K) of the model's classes.

        By its own head, or over TAP for a classifier trained with it.
        """
        if self._settings.pooling.kind == "average":
            return scores.logits
        assert not isinstance(self._head, TailHead)
        return self._head.logits(self._pooled(scores))

    def maps(
        self, scores: Scores, class_ids: torch.Tensor, frame: Frame | None = None
    ) -> torch.Tensor:
        """The maps of the wanted classes.

        Args:
            class_ids: (B, n) int64, on the device of the scores; of the user's classes.
            frame: of the images in the network's input; None: they fill it.

        Returns:
            (B, n, H, W) float32, in the cells of the feature map, or finer where refined.
        """
        groups = self._groups
        shares = None if groups is None else groups.shares(self.logits(scores), class_ids)
        frame = frame or self._whole
        maps = frame.crop(self._plain_maps(scores, class_ids if shares is None else shares))
        wanted = self._settings.refine
        if wanted.steps:
            grid, middle = self._grid(frame), [frame.crop(layer) for layer in scores.middle]
            likeness = affinity(middle, grid, wanted.power, wanted.feature_power, wanted.channels)
            maps = F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)
            maps = propagate(maps, likeness, wanted.steps)
        if self._settings.centre is not None:
            maps = towards_centre(maps, self._settings.centre)
        return maps

    def _grid(self, frame: Frame) -> tuple[int, int]:
        """Height and width of refined maps."""
        longer = max(frame.height, frame.width)
        cells = self._settings.refine.cells or max(1, round(longer / PIXELS_PER_CELL))
        height, width = (round(side * cells / longer) for side in (frame.height, frame.width))
        return max(1, height), max(1, width)

    def _plain_maps(self, scores: Scores, wanted: torch.Tensor) -> torch.Tensor:
        """Of classes (B, n), or of sums of classes (B, n, K)."""
        head = self._head
        if isinstance(head, AffineHead):
            assert self._weight is not None
            bias = head.bias if head.rectified else None
            if wanted.ndim == 2:
                return class_score_maps(scores.feature_map, self._weight, wanted, bias)
            if bias is None:
                return image_score_maps(scores.feature_map, wanted @ self._weight)
            every = torch.arange(len(bias), device=bias.device).expand(len(wanted), -1)
            maps = class_score_maps(scores.feature_map, self._weight, every, bias)
            return torch.einsum("bnk,bkhw->bnhw", wanted, maps)
        if isinstance(head, PooledHead):
            weights = head.class_weights(self._pooled(scores), wanted)
            settings = self._settings
            rows = class_weights(weights.flatten(0, 1), settings.truncate, settings.shift)
            return image_score_maps(scores.feature_map, rows.view_as(weights))
        assert scores.tail is not None
        return contributions(scores.tail, head.grid, wanted).float()

    def _pooled(self, scores: Scores) -> torch.Tensor:
        """(B, C), what the classes are read from."""
        if self._settings.pooling.kind == "thresholded":
            return thresholded_average(scores.feature_map, self._settings.pooling.threshold)
        return scores.feature_map.mean(dim=(2, 3))


def require_fitting(settings: CamSettings, classifier: Classifier) -> None:
    """Refuse settings that mean nothing for the classifier's kind of head.

    Raises:
        RequestError: names the setting and the remedy.
    """
    head = classifier.head
    if settings.pooling.kind != "average" and classifier.class_size is not None:
        raise RequestError(
            "model.class_input_size: cam.pooling.kind thresholded reads the classes off the pass "
            "that the maps come from; set one of the two to its default"
        )
    if isinstance(head, AffineHead):
        return
    mode = next(iter(settings.shift), "") if isinstance(settings.shift, dict) else ""
    if mode.startswith("global"):
        raise RequestError(
            f"cam.shift: {mode} reads the weights of all classes, and a head of kind {head.kind} "
            f"has weights of its own for each image; use a number or adaptive_{mode[7:]}"
        )
    if not isinstance(head, TailHead):
        return
    wrong = {
        "cam.truncate": settings.truncate,
        "cam.shift": settings.shift not in (0, {}),
        "cam.pooling": settings.pooling.kind != "average",
    }
    for key, given in wrong.items():
        if given:
            raise RequestError(
                f"{key}: this model reads its classes off all cells ({head.kind}), so it has no "
                f"class weights over pooled features to change; leave it at its default"
            )
