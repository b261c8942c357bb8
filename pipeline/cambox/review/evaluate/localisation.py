"""One box for each known class of an image: the figures with their intervals."""

from __future__ import annotations

import numpy as np

from cambox.review.evaluate.figures import (
    IOUS,
    MAIN_IOU,
    Bootstrap,
    Drawn,
    best_share,
    best_threshold,
    corloc,
    hits_at,
    share,
    share_of_images,
)
from cambox.review.evaluate.pairs import THRESHOLDS, Pairs
from cambox.review.evaluate.report import (
    AtIou,
    Comparison,
    Estimate,
    Group,
    MaxBox,
    ThresholdCurve,
)

LARGEST, ANY = 0, 1


def estimate(drawn: Drawn) -> Estimate:
    """A share, 0 to 1, with its interval, for the report."""
    low, high = np.clip(drawn.interval, 0, 1).tolist()
    return Estimate(value=drawn.value, low=low, high=high)


def difference(output: Drawn, other: Drawn) -> Estimate:
    """By how much the first figure is the larger one, -1 to 1."""
    gain = output - other
    low, high = gain.interval
    return Estimate(value=gain.value, low=low, high=high)


def comparison(output: Drawn, centre: Drawn) -> Comparison:
    """A figure beside the centred box's."""
    return Comparison(
        output=estimate(output), centre_box=estimate(centre), gain=difference(output, centre)
    )


def gt_known(pairs: Pairs, bootstrap: Bootstrap) -> tuple[AtIou, ...]:
    """Shares of pairs whose component-0 box hits, at each of ``IOUS``.

    Args:
        pairs: of given labels.
    """
    return _at_ious(
        bootstrap.draw(lambda weights: share(weights, pairs.image, hits_at(pairs.overlap))),
        bootstrap.draw(lambda weights: share(weights, pairs.image, hits_at(pairs.centre))),
    )


def top1(pairs: Pairs, bootstrap: Bootstrap) -> tuple[AtIou, ...]:
    """Shares of images whose best predicted class is right and has a component-0 box that hits.

    The box of a class is the same whether it was asked for as a label or as a prediction.
    """

    def of(overlap: np.ndarray) -> list[Drawn]:
        hits = hits_at(overlap) & pairs.first[:, None]
        return bootstrap.draw(lambda weights: share_of_images(weights, pairs.image, hits))

    return _at_ious(of(pairs.overlap), of(pairs.centre))


def correct_localisation(pairs: Pairs, bootstrap: Bootstrap) -> Comparison:
    """CorLoc at IoU 0.5."""

    def of(overlap: np.ndarray) -> Drawn:
        hits = hits_at(overlap)[:, [MAIN_IOU]]
        return bootstrap.draw(lambda weights: corloc(weights, pairs.image, pairs.class_id, hits))[0]

    return comparison(of(pairs.overlap), of(pairs.centre))


def max_box(pairs: Pairs, bootstrap: Bootstrap) -> MaxBox:
    """MaxBoxAcc and MaxBoxAccV2, from the swept thresholds."""
    largest = hits_at(pairs.swept[:, LARGEST])
    best_any = hits_at(pairs.swept[:, ANY])
    centre = bootstrap.draw(lambda weights: share(weights, pairs.image, hits_at(pairs.centre)))
    of_any = bootstrap.draw(lambda weights: best_share(weights, pairs.image, best_any))
    of_largest = bootstrap.draw(lambda weights: best_share(weights, pairs.image, largest))
    images = bootstrap.images
    return MaxBox(
        max_box_acc=_at_ious(of_largest, centre, best_threshold(pairs.image, largest, images)),
        max_box_acc_v2=_at_ious(of_any, centre, best_threshold(pairs.image, best_any, images)),
        max_box_acc_v2_mean=comparison(_mean(of_any), _mean(centre)),
        curves=tuple(
            ThresholdCurve(
                iou=iou,
                thresholds=tuple(THRESHOLDS.tolist()),
                largest=tuple(largest[:, :, index].mean(axis=0).tolist()),
                any=tuple(best_any[:, :, index].mean(axis=0).tolist()),
            )
            for index, iou in enumerate(IOUS)
        ),
    )


def groups(pairs: Pairs, bootstrap: Bootstrap, known: bool, swept: bool) -> tuple[Group, ...]:
    """The main figures by the size and the number of the true boxes.

    Args:
        known, swept: whether GT-known localisation and MaxBoxAcc can be measured.
    """
    swept_hits = hits_at(pairs.swept[:, LARGEST])[:, :, [MAIN_IOU]]

    def of(overlap: np.ndarray, image: np.ndarray) -> Drawn:
        hits = hits_at(overlap)[:, [MAIN_IOU]]
        return bootstrap.draw(lambda weights: share(weights, image, hits))[0]

    def best(part: np.ndarray) -> Drawn:
        return bootstrap.draw(lambda weights: best_share(weights, pairs.image, swept_hits, part))[0]

    result = []
    for name, part in pairs.groups().items():
        inside = pairs.only(part)
        centre = of(inside.centre, inside.image)
        mine = of(inside.overlap, inside.image)
        result.append(
            Group(
                name=name,
                pairs=int(part.sum()),
                gt_known=comparison(mine, centre) if known else None,
                max_box_acc=comparison(best(part), centre) if swept else None,
            )
        )
    return tuple(result)


def _mean(drawn: list[Drawn]) -> Drawn:
    return Drawn(
        float(np.mean([entry.value for entry in drawn])),
        np.mean([entry.draws for entry in drawn], axis=0),
    )


def _at_ious(
    output: list[Drawn], centre: list[Drawn], best: np.ndarray | None = None
) -> tuple[AtIou, ...]:
    return tuple(
        AtIou(
            iou=iou,
            threshold=None if best is None else float(THRESHOLDS[best[index]]),
            share=comparison(output[index], centre[index]),
        )
        for index, iou in enumerate(IOUS)
    )
