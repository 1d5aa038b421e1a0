"""Our AdamW is torch.optim.AdamW with its step count in the group."""

from __future__ import annotations

import io
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.optim.adamw import AdamW

GROUPS: list[dict[str, Any]] = [
    {"lr": 1e-2, "weight_decay": 0.1},
    {"lr": 3e-3, "weight_decay": 0.0},
    {"lr": 1e-1, "weight_decay": 0.5, "betas": (0.5, 0.6), "eps": 1e-3},
]


def parameters() -> list[list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(7, 5), (11,), (1,)]]
        for _ in GROUPS
    ]


def optimizer(kind: type, params: list[list[nn.Parameter]], **options: Any) -> Any:
    groups = [{"params": own, **group} for own, group in zip(params, GROUPS, strict=True)]
    return kind(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, **options)


def set_gradients(params: list[list[nn.Parameter]], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for own in params:
        for parameter in own:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 10.0 ** (step % 5 - 3)


def assert_equal(ours: list[list[nn.Parameter]], theirs: list[list[nn.Parameter]]) -> None:
    for a, b in zip(chain(*ours), chain(*theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_every_step_is_torchs() -> None:
    ours, theirs = parameters(), parameters()
    mine = optimizer(AdamW, ours)
    reference = optimizer(torch.optim.AdamW, theirs, foreach=False, fused=False)
    for step in range(40):
        if step == 20:  # A schedule changes both in mid-run.
            for group in mine.param_groups + reference.param_groups:
                group["lr"] *= 0.3
                group["weight_decay"] *= 2
        for params, opt in ((ours, mine), (theirs, reference)):
            set_gradients(params, step)
            opt.step()
        assert_equal(ours, theirs)
    assert [group["step"] for group in mine.param_groups] == [40, 40, 40]


def test_formula() -> None:
    """Algorithm 2 of arXiv 1711.05101 in float64."""
    weight = nn.Parameter(torch.tensor([0.7]))
    opt = AdamW([weight], lr=0.02, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.3)
    x, m, v = 0.7, 0.0, 0.0
    for t in range(1, 30):
        g = 2.0 * x - 1.0
        weight.grad = torch.tensor([g], dtype=torch.float32)
        opt.step()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        x -= 0.02 * (m / (1 - 0.9**t) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-6) + 0.3 * x)
        assert weight.item() == pytest.approx(x, abs=2e-6)


def test_state_survives_a_round_trip() -> None:
    ours, theirs = parameters(), parameters()
    mine, whole = optimizer(AdamW, ours), optimizer(AdamW, theirs)
    for step in range(6):
        for params, opt in ((ours, mine), (theirs, whole)):
            set_gradients(params, step)
            opt.step()
    file = io.BytesIO()
    torch.save(mine.state_dict(), file)
    file.seek(0)
    mine = optimizer(AdamW, ours)
    mine.load_state_dict(torch.load(file, weights_only=True))
    for step in range(6, 12):
        for params, opt in ((ours, mine), (theirs, whole)):
            set_gradients(params, step)
            opt.step()
    for a, b in zip(chain(*ours), chain(*theirs), strict=True):
        assert torch.equal(a, b)
    # What megatron-core can reshard: the count in the group, two moments per parameter and nothing else.
    assert [group["step"] for group in mine.state_dict()["param_groups"]] == [12, 12, 12]
    assert {frozenset(state) for state in mine.state.values()} == {frozenset({"exp_avg", "exp_avg_sq"})}


def test_parameters_without_gradient_stay() -> None:
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    opt = AdamW([{"params": [first]}, {"params": [second]}], lr=0.1, weight_decay=0.5)
    first.grad = torch.ones(3)
    opt.step()
    assert torch.equal(second, torch.ones(3))
    assert not torch.equal(first, torch.ones(3))
    assert [group.get("step", 0) for group in opt.param_groups] == [1, 0]


def test_refusals() -> None:
    weight: list[Tensor] = [nn.Parameter(torch.ones(1))]
    with pytest.raises(ValueError, match="decoupled"):
        AdamW(weight, adam_w_mode=False)
    with pytest.raises(ValueError, match="closure"):
        AdamW(weight).step(lambda: None)
