"""The kernels of a step's experts against float64, for a GPU or Triton's interpreter on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from recipes.inference.decode.weights import MLP, Experts, Linear


@dataclass(frozen=True)
class Case:
    size: int = 96
    width: int = 40
    top_k: int = 2
    activation: str = "silu"
    gated: bool = True
    biases: bool = False


EXPERTS, ROWS = 5, 3
CASES = {
    "silu": Case(),
    "tanh_gelu": Case(activation="tanh_gelu"),
    "not_gated": Case(activation="gelu", gated=False),
    "not_gated_with_biases": Case(activation="gelu", gated=False, biases=True, top_k=1),
    "one": Case(top_k=1),
    "all": Case(top_k=EXPERTS),
    "tails": Case(size=520, width=77, top_k=3),  # Neither whole blocks of outputs nor of inputs.
    "narrow": Case(size=8, width=3),
    "wide": Case(size=600, width=530),
}
ACTIVATIONS = {"silu": silu, "gelu": gelu, "tanh_gelu": partial(gelu, approximate="tanh")}


def mixture_error(case: Case, dtype: torch.dtype, device: str) -> float:
    """The largest difference of any output, where they are about 1."""
    from recipes.inference.decode.experts_kernel import ExpertTables, fused_mixture
    from recipes.inference.decode.product_kernel import PLAIN, SILU, TANH_GELU

    generator = torch.Generator().manual_seed(0)

    def linear(outer: int, inner: int) -> Linear:
        weight = torch.randn(outer, inner, generator=generator) / inner**0.5
        bias = torch.randn(outer, generator=generator).to(device, dtype) if case.biases else None
        return Linear(weight.to(device, dtype), bias)

    outer = case.width * (2 if case.gated else 1)
    activation = ACTIVATIONS[case.activation]
    mlps = tuple(
        MLP(linear(outer, case.size), linear(case.size, case.width), activation, case.gated)
        for _ in range(EXPERTS)
    )
    hidden = torch.randn(ROWS, case.size, generator=generator).to(device, dtype)
    scores = torch.randn(ROWS, EXPERTS, generator=generator).softmax(-1).to(device)
    shares, chosen = scores.topk(case.top_k, dim=-1)
    router = torch.zeros(EXPERTS, case.size, dtype=dtype, device=device)
    tables = ExpertTables(Experts(router, mlps, case.top_k, False, False, 1.0))
    gate = PLAIN if not case.gated else SILU if case.activation == "silu" else TANH_GELU
    found = fused_mixture(hidden, shares, chosen, tables, mlps[0], gate)
    assert found.dtype == torch.float32
    expected = torch.zeros(ROWS, case.size, dtype=torch.float64, device=device)
    for row in range(ROWS):
        for share, number in zip(shares[row].double(), chosen[row].tolist(), strict=True):
            expected[row] += share * _exact(mlps[number], hidden[row].double())
    return float((found.double() - expected).abs().max())


def _exact(mlp: MLP, hidden: Tensor) -> Tensor:
    wide = replace(mlp, first=_doubled(mlp.first), second=_doubled(mlp.second))
    inner = wide.first.weight @ hidden
    inner = wide.activated(inner if wide.first.bias is None else inner + wide.first.bias)
    out = wide.second.weight @ inner
    return out if wide.second.bias is None else out + wide.second.bias


def _doubled(linear: Linear) -> Linear:
    return Linear(linear.weight.double(), None if linear.bias is None else linear.bias.double())
