"""Cut a network at its last pooling: a backbone that makes features, a head that scores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from cambox.console import one_line

POOLING_MODULES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d)
POOLING_FUNCTIONS = (F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean)


@dataclass(frozen=True)
class Split:
    """``logits = head(backbone(images))``.

    Attributes:
        cell_layer: set where the network scores each cell by a 1x1 convolution *before* it
            pools (SqueezeNet): that convolution, the first step of ``head``.
    """

    backbone: Callable[[torch.Tensor], torch.Tensor]
    head: Callable[[torch.Tensor], torch.Tensor]
    cell_layer: nn.Conv2d | None = None


class NotPooledError(Exception):
    """The classes are not read off an average of features; the message says what was found."""


def split_network(module: nn.Module) -> Split:
    """Cut a network at its last pooling: timm's have named halves, others are traced.

    Raises:
        NotPooledError: there is no place to cut.
    """
    backbone = getattr(module, "forward_features", None)
    head = getattr(module, "forward_head", None)
    if callable(backbone) and callable(head):
        return Split(backbone, head)
    return _split_traced(module)


class _StageTracer(fx.Tracer):
    """Takes the children of the network's children as they are.

    A pooling that the classes are read from lies above them, and as whole modules their outputs
    can be recorded.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name.count(".") == 1 or super().is_leaf_module(
            m, module_qualified_name
        )


def _split_traced(module: nn.Module) -> Split:
    try:
        nodes = list(_StageTracer().trace(module).nodes)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise NotPooledError(f"cannot be traced ({one_line(error, 100)})") from error
    modules = dict(module.named_modules())
    poolings = [node for node in nodes if _is_pooling(node, modules)]
    if not poolings:
        raise NotPooledError("has no average pooling")
    cut = poolings[-1].args[0]
    cell_layer = None
    if not _has_weights(nodes[nodes.index(cut) + 1 :], modules):
        # Nothing is learned after the pooling, so the classes are scored before it.
        before = _skip_activation(cut, modules)
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            cell_layer, cut = layer, before.args[0]
    after = nodes.index(cut) + 1
    until_cut, copies = _copied(nodes[:after])
    until_cut.output(copies[cut])
    backbone = fx.GraphModule(module, until_cut)
    backbone.graph.eliminate_dead_code()
    backbone.recompile()
    from_cut, _ = _copied(nodes[after:], cut)
    return Split(backbone, fx.GraphModule(module, from_cut), cell_layer)


def _is_pooling(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], POOLING_MODULES)
    if node.op == "call_function":
        return node.target in POOLING_FUNCTIONS
    return node.op == "call_method" and node.target == "mean"


def _has_weights(nodes: Sequence[fx.Node], modules: dict[str, nn.Module]) -> bool:
    return any(
        node.op == "get_attr"
        or (node.op == "call_module" and any(True for _ in modules[str(node.target)].parameters()))
        for node in nodes
    )


def _skip_activation(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    is_relu = (
        node.op == "call_module" and isinstance(modules[str(node.target)], nn.ReLU)
    ) or node.target in (F.relu, torch.relu, "relu", "relu_")
    return node.args[0] if is_relu else node  # type: ignore[return-value]


def _copied(
    nodes: Sequence[fx.Node], given: fx.Node | None = None
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """Nodes as a graph of their own, which is given what one of the nodes before them makes."""
    part = fx.Graph()
    copies = {} if given is None else {given: part.placeholder("features")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            raise NotPooledError(f"has a head that reads {node.name} beside the pooled features")
        return copies[node]

    for node in nodes:
        copies[node] = part.node_copy(node, copied)
    return part, copies
