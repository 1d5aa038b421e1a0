"""Muon against its formulas in float64, written out here for whole separate matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipes.optim import muon as muon_module
from recipes.optim.matrices import MatrixLayout
from recipes.optim.muon import Muon
from recipes.optim.polar import COEFFICIENTS

LR, DECAY, MU, BETA2 = 0.02, 0.3, 0.9, 0.7


def polar(matrix: np.ndarray) -> np.ndarray:
    """Polar Express on singular values: odd polynomials leave the singular vectors alone."""
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    x = values / (1.01 * np.linalg.norm(values))
    for a, b, c in COEFFICIENTS[:5]:
        y = x / 1.01
        x = a * y + b * y**3 + c * y**5
    return (u * x) @ v


class Reference:
    """One matrix and its state."""

    def __init__(self, weight: np.ndarray) -> None:
        self.weight = weight
        self.momentum = np.zeros_like(weight)
        self.sure = np.ones_like(weight, dtype=bool)  # Float32 finds the same signs here.
        rows, columns = weight.shape
        self.v = np.zeros((rows, 1) if rows >= columns else (1, columns))

    def step(self, gradient: np.ndarray, lr: float) -> None:
        rows, columns = self.weight.shape
        self.momentum = MU * self.momentum + (1 - MU) * gradient
        update = polar((1 - MU) * gradient + MU * self.momentum)
        self.v = BETA2 * self.v + (1 - BETA2) * np.mean(update**2, axis=1 if rows >= columns else 0).reshape(
            self.v.shape
        )
        normed = update / np.sqrt(self.v)
        normed *= np.linalg.norm(update) / np.linalg.norm(normed)
        self.sure &= np.abs(normed) > 1e-5
        agree = np.sign(normed) == np.sign(self.weight)
        rate = lr * max(1.0, rows / columns) ** 0.5
        self.weight = self.weight - rate * (normed + DECAY * self.weight * agree)


HEADS, GROUPS, D, H, F = 4, 2, 8, 32, 24


def qkv(tensor: np.ndarray) -> list[np.ndarray]:
    """Rows per group: the queries of its heads, its key, its value."""
    per_group = HEADS // GROUPS * D
    queries, keys, values = [], [], []
    for group in np.split(tensor, GROUPS):
        queries.append(group[:per_group])
        keys.append(group[per_group : per_group + D])
        values.append(group[per_group + D :])
    return [np.concatenate(each) for each in (queries, keys, values)]


CASES: dict[str, tuple[tuple[int, int], MatrixLayout, Any]] = {
    "square": ((H, H), MatrixLayout((H,)), lambda w: [w]),
    "tall": ((96, H), MatrixLayout((96,)), lambda w: [w]),
    "wide": ((H, 96), MatrixLayout((H,)), lambda w: [w]),
    "qkv": (((HEADS + 2 * GROUPS) * D, H), MatrixLayout((HEADS // GROUPS * D, D, D)), qkv),
    "gated": ((2 * F, H), MatrixLayout((F, F)), lambda w: list(np.split(w, 2))),
}


def random(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch", [1, 2**25], ids=["one by one", "together"])
def test_formulas(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps of all cases, two parameters of each, in one optimizer whose rate changes on the way."""
    monkeypatch.setattr(muon_module, "BATCH_ELEMENTS", batch)
    names = [name for name in CASES for _ in range(2)]
    start = [random(CASES[name][0], seed) * 0.02 for seed, name in enumerate(names)]
    parameters = [nn.Parameter(weight.float()) for weight in start]
    muon = Muon(parameters, lr=LR, momentum=MU, iterations=5, beta2=BETA2, weight_decay=DECAY)
    muon.layouts = {p: CASES[name][1] for p, name in zip(parameters, names, strict=True)}
    references = [
        [Reference(part) for part in CASES[name][2](p.detach().double().numpy())]
        for p, name in zip(parameters, names, strict=True)
    ]
    for step in range(6):
        lr = LR / (step + 1)
        muon.param_groups[0]["lr"] = lr
        for i, (p, name) in enumerate(zip(parameters, names, strict=True)):
            gradient = random(CASES[name][0], 100 * step + i + 50) * 10.0 ** (step % 3 - 3)
            p.grad = gradient.float()
            for reference, part in zip(references[i], CASES[name][2](gradient.numpy()), strict=True):
                reference.step(part, lr)
        muon.step()
        for p, name, parts in zip(parameters, names, references, strict=True):
            actual = CASES[name][2](p.detach().double().numpy())
            for reference, part in zip(parts, actual, strict=True):
                assert reference.sure.mean() > 0.995
                np.testing.assert_allclose(
                    part[reference.sure], reference.weight[reference.sure], rtol=0, atol=3e-5
                )
                assert np.abs(reference.weight).max() > 0.05, "the steps must be seen"


def test_state() -> None:
    weight = nn.Parameter(torch.ones(2 * F, H))
    muon = Muon([weight], lr=LR)
    muon.layouts = {weight: MatrixLayout((F, F))}
    weight.grad = torch.randn(2 * F, H)
    muon.step()
    assert set(muon.state[weight]) == {"momentum", "second_moments"}
    assert muon.state[weight]["momentum"].shape == weight.shape
    assert [moment.shape for moment in muon.state[weight]["second_moments"]] == [(H,), (H,)]


def test_no_gradient_no_change() -> None:
    weight = nn.Parameter(torch.ones(8, 8))
    muon = Muon([weight], lr=LR, weight_decay=0.5)
    muon.layouts = {weight: MatrixLayout((8,))}
    weight.grad = torch.zeros(8, 8)
    muon.step()
    assert torch.equal(weight, torch.ones(8, 8))


def test_refuses_closures() -> None:
    with pytest.raises(ValueError, match="closure"):
        Muon([nn.Parameter(torch.ones(1, 1))], lr=LR).step(lambda: None)
