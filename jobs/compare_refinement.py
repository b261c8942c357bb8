"""What a larger input and refinement give and cost, for three real classifiers on photographs."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.config import Config
from pipeline.review.evaluate import evaluate
from pipeline.review.evaluation_report import MaxBox
from pipeline.run import run
from pipeline.sources.pack import pack

_MOBILENET: dict[str, Any] = {"kwargs": {"pad_type": "same", "bn_eps": 1e-3}, "mean": [0.5] * 3}
_MOBILENET["std"] = _MOBILENET["mean"]
NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv2_100_coral_ptq": {"name": "mobilenetv2_100", **_MOBILENET},
    "mobilenetv1_100_coral_qat": {"name": "mobilenetv1_100", **_MOBILENET},
    "squeezenet1_1_onnxzoo": {"name": "torchvision/squeezenet1_1"},
}
# Title, side of the input in pixels, steps of refinement.
SETTINGS = (("224", 224, 0), ("448", 448, 0), ("448, refined", 448, 2))


@dataclass(frozen=True)
class Result:
    """One network with one setting.

    Attributes:
        hits: MaxBoxAccV2 at IoU 0.3, 0.5 and 0.7, shares.
        mean: over the IoUs.
        low, high: the interval of the mean, 95 %, over resampled images.
        thresholds: the best one at each IoU, as a share of the map's maximum.
        forward_milliseconds: per image, network, maps and refinement.
        milliseconds: per image, of the whole run.
    """

    network: str
    setting: str
    hits: tuple[float, ...]
    mean: float
    low: float
    high: float
    thresholds: tuple[float, ...]
    forward_milliseconds: float
    milliseconds: float


def measure(
    network: str, setting: tuple[str, int, int], shards: Path, weights: Path, truth: Path
) -> Result:
    """Annotate the photographs with one setting and compare the boxes with the true ones."""
    title, side, steps = setting
    with tempfile.TemporaryDirectory() as folder:
        document = {
            "input": {"shards": [str(shards / "*.tar")]},
            "model": {
                **NETWORKS[network],
                "checkpoint": str(weights / f"{network}.safetensors"),
                "input_size": side,
            },
            "cam": {"classes": "label", "refine": {"steps": steps}},
            "boxes": {"percentile": 100, "threshold": 0.4},
            "output": {"uri": folder, "store_maps": True},
            # Larger batches of large images leave the processor's cache.
            "engine": {"batch_size": 4},
        }
        summary = run(Config.model_validate(document), Console(quiet=True))
        report = evaluate(summary.folder, str(truth)).max_box
    assert isinstance(report, MaxBox)
    mean = report.max_box_acc_v2_mean.output
    return Result(
        network=network,
        setting=title,
        hits=tuple(float(at.share.output.value or 0) for at in report.max_box_acc_v2),
        mean=float(mean.value or 0),
        low=float(mean.low or 0),
        high=float(mean.high or 0),
        thresholds=tuple(float(at.threshold or 0) for at in report.max_box_acc_v2),
        forward_milliseconds=summary.stage_milliseconds["forward"],
        milliseconds=1000 / summary.images_per_second,
    )


def line(result: Result) -> str:
    """One row of the table in the docs."""
    hits = " | ".join(f"{100 * share:.1f}" for share in result.hits)
    best = ", ".join(f"{threshold:.2f}" for threshold in result.thresholds)
    return (
        f"| {result.network} | {result.setting} | {hits} | {100 * result.mean:.1f} "
        f"({100 * result.low:.1f} to {100 * result.high:.1f}) | {best} | "
        f"{result.forward_milliseconds:.0f} | {result.milliseconds:.0f} |"
    )


def main(
    photographs: Annotated[Path, typer.Option(help="Folder with images, images.csv, boxes.csv.")],
    weights: Annotated[Path, typer.Option(help="Folder of the classifiers.")],
    to: Annotated[Path, typer.Option(help="The figures.")] = Path("docs/refinement.json"),
) -> None:
    """Measure plain and refined maps on photographs with true boxes and print the table."""
    console = Console()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder)
        pack(photographs / "images", shards, photographs / "images.csv", samples_per_shard=200)
        for network in NETWORKS:
            for setting in SETTINGS:
                result = measure(network, setting, shards, weights, photographs / "boxes.csv")
                console.print(line(result), highlight=False, soft_wrap=True)
                results.append(result)
    to.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
