"""A step of one token per row on a GPU, by kernels that are few and keep the memory busy.

What a layer has beside the Llama line's parts (norms after sub-layers, biases) is computed by torch between
the kernels. The kernels compute every row in the same way whatever stands beside it: up to MOST_ROWS rows
change nothing of each other, bit for bit.
"""

from __future__ import annotations

import importlib.util

from torch import Tensor
from torch.nn.functional import silu

from recipes.inference.decode.cache import Cache
from recipes.inference.decode.experts import with_shared
from recipes.inference.decode.products import product
from recipes.inference.decode.rotary import RotaryTables
from recipes.inference.decode.weights import MLP, Experts, Layer, Linear, Norm, Weights


def can_fuse(weights: Weights) -> bool:
    """Whether this is a GPU with Triton, and every layer has parts that the kernels know."""
    if weights.device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    norms = [norm for layer in weights.layers for norm in (layer.query_norm, layer.key_norm) if norm]
    return not any(norm.is_layer_norm for norm in norms)


class FusedStep:
    """Makes a step for the first rows of a cache."""

    def __init__(self, weights: Weights, cache: Cache, tables: RotaryTables) -> None:
        from recipes.inference.decode.experts_kernel import ExpertTables

        self.weights, self.cache, self.tables = weights, cache, tables
        self.experts = [
            ExpertTables(layer.mlp) if isinstance(layer.mlp, Experts) else None for layer in weights.layers
        ]

    def attention(
        self, number: int, layer: Layer, hidden: Tensor, tokens: Tensor, positions: Tensor, longest: int
    ) -> Tensor:
        """Attention with its norms and the residual sum, ``[b, h]`` -> ``[b, h]``."""
        from recipes.inference.decode.attention_kernel import attend, place_heads

        keys, values = self.cache.keys[number], self.cache.values[number]
        value_embedding = None
        if layer.value_table is not None and layer.value_gate is not None:
            normed = layer.input_norm(hidden)
            gates = product(normed[:, : layer.value_gate.shape[1]], layer.value_gate)
            value_embedding = tokens, layer.value_table, gates
            qkv = _after_norm(None, layer.qkv, normed)
        else:
            qkv = _after_norm(layer.input_norm, layer.qkv, hidden)
        tables, query_norm, key_norm = self.tables, layer.query_norm, layer.key_norm
        queries = place_heads(
            *(qkv, positions, keys, values),
            rotation=(tables.cosines[layer.rotary], tables.sines[layer.rotary]) if tables.cosines else None,
            norms=(query_norm.gain, key_norm.gain) if query_norm and key_norm else None,
            eps=query_norm.eps if query_norm else 0.0,
            value_embedding=value_embedding,
        )
        attended = attend(queries, keys, values, positions, self.weights.scale, longest)
        return _add(layer.output, attended, hidden, layer.after_attention)

    def mlp(self, number: int, layer: Layer, hidden: Tensor) -> Tensor:
        """The MLP or the experts with their norms and the residual sum, ``[b, h]`` -> ``[b, h]``."""
        from recipes.inference.decode.product_kernel import PLAIN, fused_product

        mlp, norm = layer.mlp, layer.mlp_norm
        if isinstance(mlp, Experts):
            out = self._mixture(number, mlp, norm(hidden))
            return hidden + (out if layer.after_mlp is None else layer.after_mlp(out))
        gate = PLAIN if mlp.first.bias is not None or norm.is_layer_norm else _gate(mlp)
        first = mlp.first.weight

        if gate == PLAIN or not _fits(hidden):
            inner = mlp.activated(_after_norm(norm, mlp.first, hidden))
        else:
            inner = fused_product(hidden, first, norm=True, gain=norm.gain, eps=norm.eps, gate=gate)
        return _add(mlp.second, inner, hidden, layer.after_mlp)

    def _mixture(self, number: int, experts: Experts, normed: Tensor) -> Tensor:
        from recipes.inference.decode.experts_kernel import fused_mixture

        tables = self.experts[number]
        assert tables is not None
        shares, chosen = experts.route(normed)
        one = experts.routed[0]
        routed = fused_mixture(normed, shares, chosen, tables, one, _gate(one))
        return with_shared(experts, normed, routed)

    def head(self, hidden: Tensor) -> Tensor:
        """The last norm and the output head, ``[b, h]`` -> ``[b, V]``."""
        return _after_norm(self.weights.final_norm, Linear(self.weights.head), hidden)


def _gate(mlp: MLP) -> int:
    """The gated activation as the kernels know it; PLAIN: they do not."""
    from recipes.inference.decode.product_kernel import PLAIN, SILU, TANH_GELU

    if not mlp.gated:
        return PLAIN
    return SILU if mlp.activation is silu else TANH_GELU


def _fits(rows: Tensor) -> bool:
    from recipes.inference.decode.product_kernel import MOST_ROWS

    return len(rows) <= MOST_ROWS


def _after_norm(norm: Norm | None, linear: Linear, hidden: Tensor) -> Tensor:
    """The product of the normed rows."""
    from recipes.inference.decode.product_kernel import fused_product

    if linear.bias is not None or (norm is not None and norm.is_layer_norm) or not _fits(hidden):
        return linear(hidden if norm is None else norm(hidden))
    if norm is None:
        return fused_product(hidden, linear.weight)
    return fused_product(hidden, linear.weight, norm=True, gain=norm.gain, eps=norm.eps)


def _add(linear: Linear, rows: Tensor, residual: Tensor, after: Norm | None) -> Tensor:
    """The residual stream plus the product, which is normed if there is a norm ``after`` it."""
    from recipes.inference.decode.product_kernel import fused_product

    if after is not None or linear.bias is not None or not _fits(rows):
        out = _after_norm(None, linear, rows)
        return residual + (out if after is None else after(out))
    return fused_product(rows, linear.weight, residual=residual)
