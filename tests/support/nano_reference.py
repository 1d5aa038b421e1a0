"""The nano_hindi architecture written out from its formulas, dense masks and float64, for comparisons.

No megatron-core and none of this project's model code: what a reader of the family's card would write.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FEATURES = (
    "embedding norm",
    "input norm",
    "MLP norm",
    "final norm",
    "query-key norm",
    "rotary positions",
    "windows",
    "full last layer",
    "value embedding",
    "value gate",
    "factor of the value gate",
    "residual scale",
    "embedding in every layer",
    "squared ReLU",
    "soft cap",
)


@dataclass(frozen=True)
class NanoReference:
    """``weights``: word_embeddings, output_layer and for each layer i ``i.q``, ``i.k``, ``i.v``, ``i.proj``,
    ``i.fc1``, ``i.fc2``, ``i.resid_lambda``, ``i.x0_lambda``; on layers with a value embedding also
    ``i.value_embedding`` and ``i.value_gate``. Matrices are ``[out, in]``.
    """

    num_layers: int
    heads: int
    groups: int
    rotary_base: float
    eps: float
    soft_cap: float
    window: int | None
    pattern: str = "L"
    without: Collection[str] = ()
    """Features left out, to see that a comparison would notice."""

    def logits(self, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        """``[b, s]`` -> ``[b, s, V]``."""
        x = weights["word_embeddings"][tokens]
        x = x0 = x if "embedding norm" in self.without else self.norm(x)
        for i in range(self.num_layers):
            layer = {name.removeprefix(f"{i}."): w for name, w in weights.items() if name.startswith(f"{i}.")}
            if "residual scale" not in self.without:
                x = layer["resid_lambda"] * x
            if "embedding in every layer" not in self.without:
                x = x + layer["x0_lambda"] * x0
            x = x + self.attention(i, layer, x if "input norm" in self.without else self.norm(x), tokens)
            x = x + self.mlp(layer, x if "MLP norm" in self.without else self.norm(x))
        if "final norm" not in self.without:
            x = self.norm(x)
        logits = x @ weights["output_layer"].T
        if "soft cap" in self.without:
            return logits
        return self.soft_cap * torch.tanh(logits / self.soft_cap)

    def losses(self, weights: Mapping[str, Tensor], tokens: Tensor, labels: Tensor) -> Tensor:
        """``[b, s]``."""
        return functional.cross_entropy(
            self.logits(weights, tokens).transpose(1, 2), labels, reduction="none"
        )

    def norm(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps)

    def mlp(self, layer: Mapping[str, Tensor], x: Tensor) -> Tensor:
        inner = (x @ layer["fc1"].T).clamp(min=0)
        return (inner if "squared ReLU" in self.without else inner * inner) @ layer["fc2"].T

    def attention(self, i: int, layer: Mapping[str, Tensor], x: Tensor, tokens: Tensor) -> Tensor:
        """``x`` is the normed input ``[b, s, h]``."""
        samples, length, _ = x.shape
        q = (x @ layer["q"].T).view(samples, length, self.heads, -1)
        k = (x @ layer["k"].T).view(samples, length, self.groups, -1)
        v = (x @ layer["v"].T).view(samples, length, self.groups, -1)
        if "value_embedding" in layer and "value embedding" not in self.without:
            gate = torch.sigmoid(x[..., :32] @ layer["value_gate"].T)
            gate = torch.full_like(gate, 0.5) if "value gate" in self.without else gate
            factor = 1 if "factor of the value gate" in self.without else 2
            embedded = layer["value_embedding"][tokens].view_as(v)
            v = v + factor * gate[..., None] * embedded
        if "rotary positions" not in self.without:
            q, k = self.rotated(q), self.rotated(k)
        if "query-key norm" not in self.without:
            q, k = self.norm(q), self.norm(k)
        k, v = (t.repeat_interleave(self.heads // self.groups, dim=2) for t in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.visible(i, length), -math.inf)
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return mixed.reshape(samples, length, -1) @ layer["proj"].T

    def rotated(self, x: Tensor) -> Tensor:
        """Su et al. 2021 (arXiv 2104.09864, eq. 15), channel j paired with channel j + d / 2."""
        length, width = x.shape[1], x.shape[-1]
        frequencies = self.rotary_base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.arange(length, dtype=torch.float64)[:, None, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def visible(self, i: int, length: int) -> Tensor:
        """``[s, s]``: whether the query of a row sees the key of a column."""
        query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
        causal = key <= query
        last = i == self.num_layers - 1 and "full last layer" not in self.without
        windowed = self.pattern[i % len(self.pattern)] == "S" and not last and "windows" not in self.without
        if not windowed or self.window is None:
            return causal
        return causal & (key > query - self.window)
