"""Is a Swin map as good a map? Small networks of several makes, trained alike, compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import safetensors.torch
import timm
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torchvision.ops import box_iou

from jobs.training import (
    FIRST_HELD_OUT_SEED,
    FIRST_TRAINING_SEED,
    load_scenes,
    mean_average_precision,
    score,
    train,
)
from pipeline.cams import BoxRule, boxes_from_map, normalise, upsample
from pipeline.cams.refine import affinity, propagate
from pipeline.config import CamSettings, ModelSettings
from pipeline.demo import network
from pipeline.demo.scenes import CLASS_NAMES, make_scene
from pipeline.maps import MapMaker
from pipeline.models.build import Network
from pipeline.models.classifier import Classifier, classifier_of
from pipeline.models.grid import possible_grids
from pipeline.models.heads import HeadKind, TailHead

# Scenes that neither training nor the classification score has seen.
FIRST_SEED = 0
SCENES = 240
SIDE = network.INPUT_SIZE
THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2))
BATCH_SIZE = 40


@dataclass(frozen=True)
class Candidate:
    """A network to train: maps of 16 x 16 cells at 128 pixels.

    Attributes:
        middle: modules whose outputs the refinement compares cells by.
    """

    name: str
    model: str
    kwargs: dict[str, Any]
    peak_learning_rate: float
    middle: tuple[str, ...]


_TOKENS = {"img_size": SIDE, "patch_size": 8, "depth": 4, "embed_dim": 96, "num_heads": 4}
_MEAN_POOLED: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
_SWIN = {"img_size": SIDE, "window_size": 8, "depths": (2, 2), "num_heads": (3, 6), "embed_dim": 48}
_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (32, 48, 64, 96), "output_stride": 8}
_RESNET = {key: value for key, value in network.MODEL_KWARGS.items() if key != "num_classes"}
CANDIDATES = (
    Candidate("ResNet", "resnet18", _RESNET, 4e-3, ("layer2", "layer3")),
    Candidate("ConvNeXt", "convnext_atto", _CONVNEXT, 2e-3, ("stages.1", "stages.2")),
    Candidate(
        "Swin", "swin_tiny_patch4_window7_224", _SWIN, 2e-3, ("layers.0", "layers.1.blocks.0")
    ),
    Candidate("ViT, class token", "vit_tiny_patch16_224", _TOKENS, 1e-3, ("blocks.1", "blocks.2")),
    Candidate(
        "ViT, mean pooled",
        "vit_tiny_patch16_224",
        {**_TOKENS, **_MEAN_POOLED},
        1e-3,
        ("blocks.1", "blocks.2"),
    ),
)


@dataclass(frozen=True)
class HeldOut:
    """Pictures (N, S, S, 3) uint8, and of each the classes it shows with their boxes as shares."""

    images: NDArray[np.uint8]
    boxes: list[dict[int, torch.Tensor]]


@dataclass(frozen=True)
class Variant:
    """One way to make maps of a network.

    Attributes:
        rectified: cells that speak against the class count as zero before the min-max.
        steps: of refinement along the affinity.
    """

    title: str
    truncate: bool = False
    nonlinear_head: Literal["auto", "frozen", "derivative"] = "auto"
    rectified: bool = False
    steps: int = 0


VARIANTS = (
    Variant("plain"),
    Variant("truncate", truncate=True),
    Variant("rectified", rectified=True),
    Variant("derivative", nonlinear_head="derivative"),
    Variant("refined, 1 step", steps=1),
    Variant("refined, 2 steps", steps=2),
)


@dataclass(frozen=True)
class Result:
    """Shares of (image, class) pairs whose largest box hits a true box at IoU 0.5.

    Attributes:
        kind: of the head.
        best: at the best threshold for all images, as a share of the maximum.
        fixed: at the recipe's default, 0.35 of the 90th percentile.
    """

    network: str
    kind: str
    variant: str
    best: float
    best_threshold: float
    fixed: float


@dataclass(frozen=True)
class Traits:
    """What a network and its features are like.

    Attributes:
        mean_average_precision: of classification, on held-out scenes, by the network's own head.
        with_thresholded_pooling: the same, pooling by TAP at 0.1; None where nothing is pooled.
        negative: share of negative values in the features the map is made of.
    """

    network: str
    parameters: int
    mean_average_precision: float
    with_thresholded_pooling: float | None
    negative: float


def held_out_scenes(progress: Progress) -> HeldOut:
    """The demo's own pictures, squashed to the input, with their true boxes as shares."""
    images = np.empty((SCENES, SIDE, SIDE, 3), dtype=np.uint8)
    boxes: list[dict[int, torch.Tensor]] = []
    for index in progress.track(range(SCENES), description="Scenes to compare on"):
        scene = make_scene(FIRST_SEED + index)
        height, width = scene.image.shape[:2]
        images[index] = cv2.resize(scene.image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        size = torch.tensor([width, height, width, height])
        shown: dict[int, torch.Tensor] = {}
        for item in scene.objects:
            box = (torch.tensor(item.box) / size)[None]
            others = shown.get(item.class_index, box[:0])
            shown[item.class_index] = torch.cat([others, box])
        boxes.append(shown)
    return HeldOut(images, boxes)


def classifier_from(
    candidate: Candidate, module: torch.nn.Module, rule: Literal["auto", "frozen", "derivative"]
) -> Classifier:
    """The trained network as the pipeline takes it."""
    settings = ModelSettings(
        name=candidate.model,
        kwargs=candidate.kwargs,
        mean=network.MEAN,
        std=network.STD,
        activation="sigmoid",
    )
    module = module.eval().requires_grad_(False)
    settings = settings.model_copy(update={"input_size": (SIDE, SIDE)})
    return classifier_of(Network(module, "timm"), settings, torch.device("cpu"), "float32", rule)


@contextmanager
def recorded(module: torch.nn.Module, names: tuple[str, ...]) -> Iterator[list[torch.Tensor]]:
    """The outputs of some modules as feature maps (B, C, H, W), filled by a forward pass."""
    outputs: list[torch.Tensor] = []

    def record(_: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        grids = possible_grids(tuple(output.shape), (SIDE, SIDE))
        # The pictures are squares, so a grid that is not is none.
        grid = next(grid for grid in grids if grid.height == grid.width)
        outputs.append(grid.feature_map(output.detach()).float())

    handles = [module.get_submodule(name).register_forward_hook(record) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def maps_of(
    candidate: Candidate, classifier: Classifier, variant: Variant, images: NDArray[np.uint8]
) -> torch.Tensor:
    """Maps (B, K, h, w) of all classes."""
    maker = MapMaker(CamSettings(truncate=variant.truncate), classifier)
    with recorded(classifier.module, candidate.middle) as middle:
        scores = classifier.scores(images)
    class_ids = torch.arange(classifier.class_count).expand(len(images), -1)
    maps = maker.maps(scores, class_ids)
    if variant.rectified:
        maps = maps.relu()
    if variant.steps:
        size = (maps.shape[2], maps.shape[3])
        maps = propagate(maps, affinity(middle, size), variant.steps)
    return maps


def hit_rate(maps: torch.Tensor, held_out: HeldOut, rule: BoxRule) -> float:
    """The share of (image, class) pairs whose largest box has IoU 0.5 with a true box."""
    hits = pairs = 0
    for image, shown in enumerate(held_out.boxes):
        for class_id, truth in shown.items():
            pairs += 1
            found = boxes_from_map(maps[image, class_id], (SIDE, SIDE), rule).boxes
            if found:
                box = found[0]
                mine = torch.tensor([[box.x_min, box.y_min, box.x_max, box.y_max]])
                hits += bool((box_iou(mine, truth) >= 0.5).any())
    return hits / pairs


def compare(
    candidate: Candidate, module: torch.nn.Module, held_out: HeldOut, progress: Progress
) -> tuple[list[Result], torch.Tensor]:
    """All variants of one network, and its plain maps."""
    results = []
    plain: torch.Tensor | None = None
    for variant in progress.track(VARIANTS, description=f"Boxes of {candidate.name}"):
        classifier = classifier_from(candidate, module, variant.nonlinear_head)
        kind = classifier.head.kind
        if variant.truncate and isinstance(classifier.head, TailHead):
            continue
        if variant.nonlinear_head == "derivative" and kind is not HeadKind.derivative:
            continue
        maps = torch.cat(
            [
                maps_of(candidate, classifier, variant, batch)
                for batch in np.array_split(held_out.images, SCENES // BATCH_SIZE)
            ]
        )
        plain = maps if plain is None else plain
        rates = [hit_rate(maps, held_out, BoxRule(tau, 100.0)) for tau in THRESHOLDS]
        best = int(np.argmax(rates))
        fixed = hit_rate(maps, held_out, BoxRule())
        results.append(
            Result(candidate.name, str(kind), variant.title, rates[best], THRESHOLDS[best], fixed)
        )
    assert plain is not None
    return results, plain


def traits(candidate: Candidate, module: torch.nn.Module, progress: Progress) -> Traits:
    """How well the network classifies, and what its features are like."""
    scenes = load_scenes(FIRST_HELD_OUT_SEED, 500, progress, "Held-out scenes")
    classifier = classifier_from(candidate, module, "auto")
    batches = [classifier.scores(batch) for batch in np.array_split(scenes.images, 10)]
    features = torch.cat([batch.feature_map for batch in batches])
    own = score(module, scenes).mean_average_precision
    thresholded = None
    if not isinstance(classifier.head, TailHead):
        settings = CamSettings.model_validate(
            {"pooling": {"kind": "thresholded", "threshold": 0.1}}
        )
        maker = MapMaker(settings, classifier)
        logits = torch.cat([maker.logits(batch) for batch in batches])
        thresholded = mean_average_precision(logits.numpy(), scenes.labels)
    return Traits(
        candidate.name,
        sum(parameter.numel() for parameter in module.parameters()),
        own,
        thresholded,
        float((features < 0).float().mean()),
    )


def picture(held_out: HeldOut, maps: list[torch.Tensor], scenes: int) -> NDArray[np.uint8]:
    """A row for each scene: the picture, then the map of its first class by each network."""
    rows = []
    for image in range(scenes):
        class_id = next(iter(held_out.boxes[image]))
        tiles = [held_out.images[image]]
        for of_network in maps:
            values = normalise(upsample(of_network[image, class_id].numpy(), (SIDE, SIDE)))
            heat = cv2.applyColorMap(np.uint8(values * 255), cv2.COLORMAP_VIRIDIS)[:, :, ::-1]  # type: ignore[call-overload]
            tiles.append(
                cv2.addWeighted(held_out.images[image], 0.35, heat, 0.65, 0).astype(np.uint8)
            )
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def trained(
    candidate: Candidate, scenes: int, epochs: int, seed: int, weights: Path, progress: Progress
) -> torch.nn.Module:
    """The network with its weights: those of the folder, or trained now and put there."""
    torch.manual_seed(seed)
    kwargs = {**candidate.kwargs, "num_classes": len(CLASS_NAMES)}
    module: torch.nn.Module = timm.create_model(candidate.model, **kwargs)
    path = weights / f"{candidate.name.replace(', ', '-').replace(' ', '-').lower()}.safetensors"
    if path.exists():
        module.load_state_dict(safetensors.torch.load_file(path))
        return module
    pictures = load_scenes(FIRST_TRAINING_SEED, scenes, progress, f"Scenes for {candidate.name}")
    module = train(module, pictures, epochs, candidate.peak_learning_rate, seed, progress)
    weights.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    safetensors.torch.save_file(state, path)
    return module


def table(results: list[Result], measured: list[Traits]) -> str:
    """Both tables of the page."""
    lines = [
        "| network | parameters | mAP | mAP with TAP | negative features |",
        "|---|---|---|---|---|",
    ]
    for one in measured:
        pooled = one.with_thresholded_pooling
        lines.append(
            f"| {one.network} | {one.parameters / 1e3:.0f} k | {one.mean_average_precision:.3f} | "
            f"{'' if pooled is None else f'{pooled:.3f}'} | {one.negative:.0%} |"
        )
    lines += [
        "",
        "| network | kind | map | best threshold | hits | hits at 0.35 x P90 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.network} | {one.kind} | {one.variant} | {one.best_threshold:.2f} | "
        f"{one.best:.1%} | {one.fixed:.1%} |"
        for one in results
    ]
    return "\n".join(lines)


def main(
    to: Annotated[Path, typer.Option(help="Folder of the figures and the picture.")] = Path("docs"),
    weights: Annotated[Path, typer.Option(help="Trained weights, kept for the next time.")] = Path(
        "out/networks"
    ),
    scenes: Annotated[int, typer.Option(help="Scenes to train each network on.")] = 5000,
    epochs: Annotated[int, typer.Option(help="Passes over the scenes.")] = 10,
    seed: Annotated[int, typer.Option(help="Of weights, order and changes.")] = 0,
) -> None:
    """Train small networks of several makes alike on the demo's pictures and compare their maps.

    A network that has not learned its classes says nothing of its maps: look at the mAP first.
    Three thousand scenes and six epochs teach the ResNet, and are too few for the others.
    """
    console = Console()
    results: list[Result] = []
    measured: list[Traits] = []
    plain = []
    with Progress(console=console) as progress:
        held_out = held_out_scenes(progress)
        for candidate in CANDIDATES:
            module = trained(candidate, scenes, epochs, seed, weights, progress)
            measured.append(traits(candidate, module, progress))
            variants, maps = compare(candidate, module, held_out, progress)
            results += variants
            plain.append(maps)
    to.mkdir(parents=True, exist_ok=True)
    document = {
        "networks": [asdict(one) for one in measured],
        "results": [asdict(one) for one in results],
    }
    (to / "networks.json").write_text(json.dumps(document, indent=1) + "\n")
    cv2.imwrite(str(to / "networks.jpg"), picture(held_out, plain, 6)[:, :, ::-1])
    console.print(table(results, measured), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
