"""A whole probe: features of pictures, a last layer of their labels, a recipe that uses it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from rich.console import Console
from safetensors.torch import save

from cambox.config import Config, ModelSettings, OutputSettings
from cambox.config_cam import CamSettings
from cambox.console import Steps, counted, one_visible_line, require_folder, say, write_files
from cambox.engines.worker import local_device
from cambox.errors import RequestError
from cambox.linear_probe.examples import Activation, Examples, read_examples
from cambox.linear_probe.fit import Fit, fit_probe
from cambox.linear_probe.layer import Layer
from cambox.linear_probe.report import ProbeReport, probabilities, report
from cambox.linear_probe.suspects import suspects_of
from cambox.models.build import build_network
from cambox.models.classifier import Classifier
from cambox.models.groups import read_groups
from cambox.models.last_layer import with_last_layer
from cambox.models.load import load_classifier
from cambox.output.reading import open_recipe
from cambox.planned import annotate_planned
from cambox.resolve import class_names, listed_classes
from cambox.run import prepare
from cambox.sources.class_list import read_class_list
from cambox.summary import RunSummary

CLASSIFIER, CLASS_NAMES = "classifier.safetensors", "class_names.txt"
RECIPE, REPORT, SUSPECTS = "recipe.yaml", "report.json", "suspects.parquet"
# What is checked of the classifier that is written; rounding of float16 features stays below it.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ProbeRequest:
    """What to learn, from what.

    Attributes:
        config: of the network, the input, and the boxes that the recipe is for.
        to: the folder of the result.
        features: URI of the folder that keeps the features; one that all workers reach.
        background: the class of pictures without any object.
        activation: None: by whether every picture shows one class.
        balanced: whether pictures of rare classes count for more.
    """

    config: Config
    to: Path
    features: str
    background: str | None = None
    activation: Activation | None = None
    balanced: bool = True


class UnfinishedError(Exception):
    """Some shards were given up, so that it cannot be told what all pictures would teach."""

    def __init__(self, summary: RunSummary) -> None:
        super().__init__(f"{len(summary.failures)} shards were given up")
        self.summary = summary


def probe(request: ProbeRequest, console: Console) -> ProbeReport:
    """Train a last layer and write it, with a recipe that annotates by it.

    Raises:
        RequestError: the request cannot be carried out, or the labels do not do.
        UnfinishedError: shards were given up; nothing is written.
    """
    require_folder(request.to)
    config = features_config(request.config, request.features)
    engine, work = prepare(config, console)
    summary = annotate_planned(config, engine, work, console)
    if summary.failures:
        raise UnfinishedError(summary)
    say(
        console,
        f"features of {counted(len(summary.reports), 'shard')} read"
        + (f", {summary.images_per_second:.1f} images/s" if summary.reports else "")
        + f"; {summary.done_before} were there: {summary.folder}",
    )
    wanted = {shard.uri for shard in (*work.done, *work.to_do)}
    published = open_recipe(summary.folder, config.output.storage_options, reviewed=False)
    # In an order of their own: which shards were read in which run must not matter.
    files = sorted(
        (file for file in published.files if file.shard.uri in wanted),
        key=lambda file: file.shard.uri,
    )
    device = local_device()
    with Steps(console) as steps:
        examples = read_examples(
            files,
            listed_classes(engine.config),
            request.background,
            request.activation,
            request.to,
            _names_of_model(config.model),
            steps.step("feature files read"),
        )
        fit = fit_probe(examples, request.balanced, device, steps.step("layers fitted"))
    suspects = suspects_of(examples, fit)
    made = report(
        examples,
        fit,
        request.config.model.name,
        request.balanced,
        _of_groups(request.config.model, config.model, examples),
        suspects.num_rows,
    )
    _write(request, config, examples, fit, made, suspects)
    return made


def features_config(config: Config, to: str) -> Config:
    """The pass that only stores features, at the size that the classes are read at.

    Of the rest of a configuration nothing counts, so that boxes may be set otherwise and the
    features stay.
    """
    size = config.model.class_input_size or config.model.input_size
    changes = {"input_size": size, "class_input_size": None, "class_groups": None}
    return Config(
        input=config.input,
        model=config.model.model_copy(update=changes),
        cam=CamSettings(classes="none", top_k=1),
        output=OutputSettings(
            uri=to, store_features=True, storage_options=config.output.storage_options
        ),
        engine=config.engine,
    )


def _names_of_model(model: ModelSettings) -> tuple[str, ...]:
    """The names of the network's own classes that a file gives; none without one."""
    return read_class_list("model.class_names", model.class_names) if model.class_names else ()


def _of_groups(given: ModelSettings, model: ModelSettings, examples: Examples) -> np.ndarray | None:
    """(N, K) what the network's own last layer says of the classes as groups of its own."""
    if given.class_groups is None:
        return None
    classifier = with_last_layer(load_classifier(model), model.name)
    names = class_names(model.class_names, classifier.class_count)
    groups = read_groups(given.class_groups, names)
    if groups.names != examples.class_names:
        return None
    own = last_layer(classifier)
    return np.concatenate(
        [
            probabilities(own.logits(block.astype(np.float64)), model.activation, groups)
            for _, block in examples.features.blocks()
        ]
    )


def last_layer(classifier: Classifier) -> Layer:
    """The last layer of a network, as it is."""
    assert classifier.last_layer is not None
    layer = classifier.module.get_submodule(classifier.last_layer)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    matrix = weight.detach().double().flatten(1).cpu().numpy()
    zeros = np.zeros(len(matrix))
    return Layer(matrix, bias.detach().double().cpu().numpy() if bias is not None else zeros)  # type: ignore[operator]


def _write(
    request: ProbeRequest,
    config: Config,
    examples: Examples,
    fit: Fit,
    made: ProbeReport,
    suspects: pa.Table,
) -> None:
    tensors = classifier_tensors(config.model, fit.layer)
    names = "".join(f"{name}\n" for name in examples.class_names)
    write_files(request.to, {CLASSIFIER: save(dict(tensors)), CLASS_NAMES: names.encode()})
    recipe = recipe_config(request, examples)
    _require_same(recipe.model, config.model, fit.layer)
    head = (
        f"# By cambox probe {made.cambox}, from {made.pictures} pictures of "
        f"{len(made.classes)} classes; what it is worth is in {REPORT}.\n"
        f"#   cambox annotate {one_visible_line(str(request.to / RECIPE))}\n"
    )
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    table = io.BytesIO()
    pq.write_table(suspects, table)
    write_files(
        request.to,
        {
            REPORT: (json.dumps(made.model_dump(), indent=1) + "\n").encode(),
            SUSPECTS: table.getvalue(),
            RECIPE: (head + text).encode(),
        },
    )


def classifier_tensors(model: ModelSettings, layer: Layer) -> Mapping[str, torch.Tensor]:
    """The network's weights with another last layer, by the network's names.

    Raises:
        RequestError: its last layer cannot be told, or has no bias.
    """
    name = with_last_layer(load_classifier(model), model.name).last_layer
    network = build_network(model)
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    before = tensors[f"{name}.weight"]
    if f"{name}.bias" not in tensors:
        raise RequestError(
            f"model.name: the last layer of {model.name} has no bias, which the classes need; "
            f"take another network"
        )
    weight = torch.from_numpy(layer.weight).to(before.dtype)
    tensors[f"{name}.weight"] = weight.reshape(len(weight), *before.shape[1:])
    tensors[f"{name}.bias"] = torch.from_numpy(layer.bias).to(before.dtype)
    return tensors


def recipe_config(request: ProbeRequest, examples: Examples) -> Config:
    """The given configuration with the classifier that was trained."""
    given, folder = request.config, request.to.absolute()
    of_model: dict[str, Any] = {
        "checkpoint": str(folder / CLASSIFIER),
        "pretrained": False,
        "averaged": False,
        "class_groups": None,
        "class_names": str(folder / CLASS_NAMES),
        "activation": examples.activation,
        "kwargs": {
            name: value for name, value in given.model.kwargs.items() if name != "num_classes"
        },
    }
    top_k = min(given.cam.top_k, len(examples.class_names))
    ranks = given.cam.ranks and [rank for rank in given.cam.ranks if rank <= top_k]
    of_cam = {"top_k": top_k, "ranks": ranks or None, "background": examples.background}
    document = given.model_dump(mode="json")
    document["model"] |= of_model
    document["cam"] |= of_cam
    if examples.background is not None:
        # It may be one that the list beside the shards does not have.
        document["input"]["class_names"] = str(folder / CLASS_NAMES)
    # Its numbers hold for the network that it was found with.
    document["boxes"]["calibration"] = None
    return Config.model_validate(document)


def _require_same(written: ModelSettings, model: ModelSettings, layer: Layer) -> None:
    """See that the classifier that was written says what was trained.

    Raises:
        RequestError: it does not.
    """
    sizes = {"input_size": model.input_size, "class_input_size": None}
    classifier = load_classifier(written.model_copy(update=sizes))
    classifier = with_last_layer(classifier, model.name)
    size = classifier.preprocessing
    noise = np.random.default_rng(0).integers(0, 256, (2, size.height, size.width, 3), np.uint8)
    scores = classifier.scores(noise)
    assert scores.last_input is not None
    expected = layer.logits(scores.last_input.double().cpu().numpy())
    off = np.abs(scores.logits.cpu().numpy() - expected).max()
    if not off <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise RequestError(
            f"model.name: {model.name} with the trained last layer gives logits that are {off:.3g} "
            f"off, so it does more after that layer than was seen; take another network"
        )
