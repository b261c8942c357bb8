"""What is held, and what the terms are: against the formulas written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from cambox.models.freeze import Frozen
from cambox.models.tail import contributions, find_tail, run_with_tail

CHANNELS = 6
Function = Callable[[torch.Tensor], torch.Tensor]


def affine_parts(function: Function, point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The value, and the Jacobian (out, in), of a function of a vector while it is held."""
    leaf = point.clone().requires_grad_()
    with Frozen():
        value = function(leaf[None])[0]
        rows = [torch.autograd.grad(part, leaf, retain_graph=True)[0] for part in value]
    return value.detach(), torch.stack(rows)


def test_a_layer_norm_keeps_its_mean_linear_and_holds_its_spread() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(CHANNELS)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    point = torch.randn(CHANNELS)
    value, weight = affine_parts(norm, point)
    spread = (point.var(unbiased=False) + norm.eps).sqrt()
    centring = torch.eye(CHANNELS) - 1 / CHANNELS
    assert torch.allclose(value, norm(point), atol=1e-6)
    assert torch.allclose(weight, norm.weight[:, None] * centring / spread, atol=1e-6)
    assert torch.allclose(weight @ point + norm.bias, value, atol=1e-6)


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8, eps=1e-3), nn.BatchNorm1d(8).eval()],
    ids=lambda norm: type(norm).__name__,
)
def test_a_held_norm_is_affine_with_its_bias_as_the_constant(norm: nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    point = torch.randn(8)
    value, weight = affine_parts(norm, point)
    assert torch.allclose(value, norm(point[None])[0], atol=1e-5)
    bias = getattr(norm, "bias", None)
    assert torch.allclose(weight @ point + (0 if bias is None else bias), value, atol=1e-5)


ACTIVATIONS: list[Function] = [
    *(F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.mish, F.leaky_relu, F.elu, torch.tanh),
    *(nn.ReLU(inplace=True), nn.Hardswish(inplace=True), lambda x: x * x.sigmoid()),
    *(lambda x: x**3, lambda x: x * F.relu6(x + 3) / 6),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_its_input_times_a_gate(activation: Function) -> None:
    points = torch.tensor([-7.0, -1.5, -0.3, 0.0, 1e-9, 0.4, 2.0, 9.0])
    value, weight = affine_parts(activation, points)
    expected = activation(points.clone())
    assert torch.allclose(value, expected, atol=1e-6)
    assert torch.equal(weight, weight.diag().diag())
    # At 7 and more relu6 no longer grows: its gate is 6 / x, where the derivative would be 0.
    far = points.abs() > 0.1
    assert torch.allclose((weight.diag() * points)[far], expected[far], atol=1e-5)


def test_attention_weights_are_held_in_both_ways_that_torch_computes_them() -> None:
    torch.manual_seed(2)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = torch.randn(1, 5, 8)
    _, weights = attention(tokens, tokens, tokens, average_attn_weights=False)
    value_rows = attention.in_proj_weight[16:]
    out = attention.out_proj

    def plain(values: torch.Tensor) -> torch.Tensor:
        """Held at ``weights``, and without the biases, so linear in the tokens."""
        by_head = (values @ value_rows.T).reshape(5, 2, 4).transpose(0, 1)
        return (weights[0] @ by_head).transpose(0, 1).reshape(5, 8) @ out.weight.T

    def fused(values: torch.Tensor) -> torch.Tensor:
        query, key, value = F.linear(
            values, attention.in_proj_weight, attention.in_proj_bias
        ).split(8, dim=-1)
        heads = [part.reshape(1, 5, 2, 4).transpose(1, 2) for part in (query, key, value)]
        mixed = F.scaled_dot_product_attention(*heads)
        return out(mixed.transpose(1, 2).reshape(1, 5, 8))

    for function in (lambda x: attention(x, x, x, need_weights=False)[0], fused):
        leaf = tokens.clone().requires_grad_()
        with Frozen() as frozen:
            result = function(leaf)
            (weight,) = torch.autograd.grad(result[0, 0, 3], leaf)
        assert frozen.attended
        assert torch.allclose(result, attention(tokens, tokens, tokens)[0], atol=1e-6)
        for token in range(5):
            alone = torch.zeros(5, 8)
            alone[token] = tokens[0, token]
            term = (weight[0, token] * tokens[0, token]).sum()
            assert torch.allclose(term, plain(alone)[0, 3], atol=1e-6)


def test_a_second_pass_is_held_at_the_first() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 4))
    first, second = torch.randn(2, 8, requires_grad=True).unbind()
    with Frozen() as held:
        network(first[None])
    with Frozen(held.tape):
        at_both = network((first + second)[None])
    with Frozen(held.tape):
        at_second = network(second[None])
    with Frozen(held.tape):
        at_zero = network((0 * first)[None])
    with Frozen(held.tape):
        at_first = network(first[None])
    assert torch.allclose(at_first, network(first[None]), atol=1e-6)
    assert torch.allclose(at_both - at_zero, at_first - at_zero + at_second - at_zero, atol=1e-5)
    assert not torch.allclose(at_second, network(second[None]), atol=1e-3)


def test_the_map_of_a_class_token_is_what_the_last_block_hands_over() -> None:
    """The formula of ``cambox.models.tail`` for a vision transformer, written out."""
    torch.manual_seed(4)
    network = timm.create_model("test_vit", num_classes=7).eval().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.1)
    images = torch.randn(2, 3, 160, 160)
    head = find_tail(network, images)
    assert head is not None
    assert (head.module_name, head.kind) == (f"blocks.{len(network.blocks) - 1}", "attention")
    run = run_with_tail(network, head, images)
    class_ids = torch.tensor([[1, 6, 3], [0, 2, 5]])
    ours = contributions(run, head.grid, class_ids)

    tokens = run.features.detach()
    block, norm = network.blocks[-1], network.norm
    attention = block.attn
    heads, width = attention.num_heads, tokens.shape[2]

    def normed(layer: nn.LayerNorm, at: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """The linear part of a LayerNorm with the spread that it has at a place."""
        spread = (at.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        return (vectors - vectors.mean(-1, keepdim=True)) / spread * layer.weight

    first = block.norm1(tokens)
    query, key, _ = attention.qkv(first).reshape(2, -1, 3, heads, width // heads).unbind(2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * attention.scale
    looks = scores.softmax(-1)[:, :, 0]  # of the class token, (B, heads, tokens)
    values = normed(block.norm1, tokens, tokens) @ attention.qkv.weight[2 * width :].T
    by_head = values.reshape(2, -1, heads, width // heads) * looks.transpose(1, 2)[..., None]
    handed = by_head.flatten(2) @ attention.proj.weight.T  # by each token to the class token
    between = tokens + attention(first)
    at = between[:, :1]
    hidden = block.mlp.fc1(block.norm2(at))
    gate = F.gelu(hidden) / hidden
    through = (normed(block.norm2, at, handed) @ block.mlp.fc1.weight.T) * gate
    arrived = handed + through @ block.mlp.fc2.weight.T
    last = between + block.mlp(block.norm2(between))
    terms = normed(norm, last[:, :1], arrived) @ network.head.weight.T  # (B, tokens, K)
    cells = terms[:, 1:] * (tokens.shape[1] - 1)
    side = ours.shape[2]
    theirs = cells.transpose(1, 2).reshape(2, 7, side, side)
    theirs = theirs.gather(1, class_ids[:, :, None, None].expand(-1, -1, side, side))
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
