"""A step of one token per row on a GPU, by kernels that are few and keep the memory busy.

A layer of the Llama line is seven of them: its four products, attention with the new heads' places, and after
each sub-layer the residual sum with the norm for the next one. What a layer has beside these parts (biases,
LayerNorms) is computed by torch between the kernels. The kernels compute every row in the same way whatever
stands beside it: up to MOST_ROWS rows change nothing of each other, bit for bit.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from recipes.inference.decode.cache import Cache
from recipes.inference.decode.experts import with_shared
from recipes.inference.decode.has_triton import has_triton
from recipes.inference.decode.norm import Norm
from recipes.inference.decode.rotary import RotaryTables
from recipes.inference.decode.weights import MLP, Experts, Layer, Linear, Weights
from recipes.model.products import product


def can_fuse(weights: Weights) -> bool:
    """Whether this is a GPU with Triton, all is here, and every layer has parts that the kernels know."""
    if not (weights.share.is_whole and has_triton(weights.device)):
        return False
    norms = [norm for layer in weights.layers for norm in (layer.query_norm, layer.key_norm) if norm]
    return not any(norm.is_layer_norm for norm in norms)


class FusedStep:
    """Makes a step for the first rows of a cache.

    Sub-layers read normed rows ``[b, h]`` and give ``[parts, b, h]``, which :meth:`add` sums.
    """

    def __init__(self, weights: Weights, cache: Cache, tables: RotaryTables) -> None:
        from recipes.inference.decode.experts_kernel import ExpertTables

        self.weights, self.cache, self.tables = weights, cache, tables
        self.experts = [
            ExpertTables(layer.mlp) if isinstance(layer.mlp, Experts) else None for layer in weights.layers
        ]

    def norm(self, hidden: Tensor, norm: Norm) -> Tensor:
        """The normed residual stream, ``[b, h]``."""
        from recipes.inference.decode.norm_kernel import add_and_norm

        return norm(hidden) if norm.is_layer_norm else add_and_norm(hidden, None, None, norm)[1]

    def add(self, hidden: Tensor, parts: Tensor, after: Norm | None, norm: Norm) -> tuple[Tensor, Tensor]:
        """The residual stream with a sub-layer's output, normed ``after`` it; and the normed stream."""
        from recipes.inference.decode.norm_kernel import add_and_norm

        if after is not None and after.is_layer_norm:
            parts, after = after(parts.sum(0).to(hidden.dtype))[None], None
        if norm.is_layer_norm:
            hidden, _ = add_and_norm(hidden, parts, after, None)
            return hidden, norm(hidden)
        return add_and_norm(hidden, parts, after, norm)

    def attention(
        self, number: int, layer: Layer, normed: Tensor, tokens: Tensor, positions: Tensor, longest: int
    ) -> Tensor:
        """Attention without its norms and the residual sum."""
        from recipes.inference.decode.attention_kernel import attend

        keys, values = self.cache.keys[number], self.cache.values[number]
        value_embedding = None
        if layer.value_table is not None and layer.value_gate is not None:
            gates = product(normed[:, : layer.value_gate.shape[1]], layer.value_gate)
            value_embedding = tokens, layer.value_table, gates
        tables, query_norm, key_norm = self.tables, layer.query_norm, layer.key_norm
        attended = attend(
            *(_parts(layer.qkv, normed), positions, keys, values),
            rotation=(tables.cosines[layer.rotary], tables.sines[layer.rotary]) if tables.cosines else None,
            norms=(query_norm.gain, key_norm.gain) if query_norm and key_norm else None,
            eps=query_norm.eps if query_norm else 0.0,
            value_embedding=value_embedding,
            scale=self.weights.scale,
            longest=longest,
        )
        return _parts(layer.output, attended)

    def mlp(self, number: int, layer: Layer, normed: Tensor) -> Tensor:
        """The MLP or the experts without their norms and the residual sum."""
        mlp = layer.mlp
        if isinstance(mlp, Experts):
            return self._mixture(number, mlp, normed)[None]
        gate = _gate(mlp)
        if gate and mlp.first.bias is None and _fits(normed):
            from recipes.inference.decode.product_kernel import whole_product

            return _parts(mlp.second, whole_product(normed, mlp.first.weight, gate))
        return _parts(mlp.second, mlp.activated(_whole(mlp.first, normed)))

    def _mixture(self, number: int, experts: Experts, normed: Tensor) -> Tensor:
        from recipes.inference.decode.experts_kernel import fused_mixture

        tables = self.experts[number]
        assert tables is not None
        shares, chosen = experts.route(normed)
        one = experts.routed[0]
        routed = fused_mixture(normed, shares, chosen, tables, one, _gate(one))
        return with_shared(experts, normed, routed)

    def head(self, normed: Tensor) -> Tensor:
        """The output head, ``[b, h]`` -> ``[b, V]``."""
        assert self.weights.head is not None
        return _whole(Linear(self.weights.head), normed)


def _gate(mlp: MLP) -> int:
    """The gated activation as the kernels know it; PLAIN: they do not."""
    from recipes.inference.decode.product_kernel import PLAIN, SILU, TANH_GELU

    if not mlp.gated:
        return PLAIN
    return SILU if mlp.activation is silu else TANH_GELU


def _fits(rows: Tensor) -> bool:
    from recipes.inference.decode.product_kernel import MOST_ROWS

    return len(rows) <= MOST_ROWS


def _whole(linear: Linear, rows: Tensor) -> Tensor:
    from recipes.inference.decode.product_kernel import whole_product

    if linear.bias is not None or not _fits(rows):
        return linear(rows)
    return whole_product(rows, linear.weight)


def _parts(linear: Linear, rows: Tensor) -> Tensor:
    """The product in parts to be added."""
    from recipes.inference.decode.product_kernel import product_parts

    if linear.bias is not None or not _fits(rows):
        return linear(rows)[None]
    return product_parts(rows, linear.weight)
