"""The cross entropy against torch's in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._inductor.fx_passes.post_grad import prepare_softmax_pattern
from torch.fx.experimental.proxy_tensor import make_fx

from recipes.config.schema import ParallelConfig
from recipes.config.world import launched_world
from recipes.model import cross_entropy
from recipes.model.cross_entropy import fast_cap, vocab_parallel_cross_entropy
from tests.support.cross_entropy_cases import assert_agrees, case, expected
from tests.support.pool import GlooPool


@pytest.mark.parametrize("soft_cap", [None, 15.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 7, 1000, 256_000])
def test_equals_torchs_in_float64(vocabulary: int, dtype: torch.dtype, soft_cap: float | None) -> None:
    assert_agrees(vocabulary, dtype, soft_cap)


@pytest.mark.parametrize("soft_cap", [None, 15.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_z_loss_is_in_the_gradient_and_not_in_the_loss(
    dtype: torch.dtype, soft_cap: float | None
) -> None:
    assert_agrees(1000, dtype, soft_cap, z_loss_coeff=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_compiled(soft_cap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, by the CPU's compiler."""
    calls = []

    def compiled(function: Any, *arguments: Any) -> Any:
        calls.append(function)
        return cross_entropy._compiled(function)(*arguments)

    monkeypatch.setattr(cross_entropy, "_run", compiled)
    for dtype in (torch.float32, torch.bfloat16):
        assert_agrees(70_000, dtype, soft_cap)
        assert_agrees(70_000, dtype, soft_cap, z_loss_coeff=0.01)
    assert len(calls) == 8


def test_the_cap_of_gpus_is_the_cap() -> None:
    values = torch.cat((torch.linspace(-200.0, 200.0, 100_001), torch.tensor([0.0, 1e-6, -1e-3, 1e4, -1e30])))
    for cap in (1.0, 15.0, 30.0):
        exact = cap * torch.tanh(values.double() / cap)
        assert (fast_cap(values, cap).double() - exact).abs().max() < 3e-7 * cap


def test_on_a_gpu_a_small_cap_stands_for_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for rows of the least possible logits. On the CPU, by its operations."""
    for soft_cap in (15.0, 30.0):
        monkeypatch.setattr(cross_entropy, "_largest", cross_entropy._cap_of_rows)
        assert_agrees(1000, torch.float32, soft_cap, slack=5)
        least = torch.full((2, 1000), -1e9, requires_grad=True)
        loss = vocab_parallel_cross_entropy(least, torch.tensor([3, 999]), soft_cap=soft_cap)
        torch.testing.assert_close(loss, torch.full((2,), math.log(1000)), rtol=0, atol=5e-5)
    assert cross_entropy._cap_of_rows(torch.zeros(2, 3), 31.0) is None


def test_large_logits_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([[3e4, -3e4, 2.9e4], [-3e4, -3e4, -3e4]], requires_grad=True)
    losses = vocab_parallel_cross_entropy(logits, torch.tensor([1, 0]))
    assert losses.tolist() == [6e4, pytest.approx(math.log(3.0), abs=2e-3)]  # 3e4 has steps of 0.002 in fp32.
    losses.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_the_logits_are_used_up() -> None:
    """A second backward pass would read gradients as logits: autograd notices."""
    logits, labels, gradient = case(50)
    product = logits.requires_grad_() * 1.0
    losses = vocab_parallel_cross_entropy(product, labels)
    losses.backward(gradient, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.backward(gradient)


def losses_of_a_slice(soft_cap: float | None, z_loss_coeff: float) -> dict[str, Any]:
    """A case for the pool: this rank's slice of the vocabulary."""
    from megatron.core import parallel_state

    from tests.support.engine import process_groups

    with process_groups(ParallelConfig(tensor_model_parallel_size=2), launched_world()):
        group = parallel_state.get_tensor_model_parallel_group()
        logits, labels, gradient = case(1000)
        own = logits.chunk(2, dim=-1)[group.rank()].contiguous().requires_grad_()
        losses = vocab_parallel_cross_entropy(
            own, labels, soft_cap=soft_cap, group=group, z_loss_coeff=z_loss_coeff
        )
        losses.backward(gradient)
        assert own.grad is not None
        return {"losses": losses.detach().numpy(), "slopes": own.grad.numpy()}


@pytest.mark.parametrize("z_loss_coeff", [0.0, 0.01])
@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_a_vocabulary_over_two_ranks(
    soft_cap: float | None, z_loss_coeff: float, gloo_pool: GlooPool
) -> None:
    first, second = gloo_pool.run(2, losses_of_a_slice, soft_cap, z_loss_coeff)
    losses, slopes = expected(*case(1000), soft_cap, z_loss_coeff)
    assert np.array_equal(first["losses"], second["losses"])
    np.testing.assert_allclose(first["losses"], losses, rtol=0, atol=1e-5)
    found = np.concatenate((first["slopes"], second["slopes"]), axis=-1)
    np.testing.assert_allclose(found, slopes, rtol=2e-6, atol=1e-7)


def test_on_a_gpu_the_logits_are_read_once() -> None:
    """torch's compiler replaces just this form, which is what its own pattern is traced to, by one loop."""

    def operations(function: Callable[..., Any], *inputs: Any) -> list[tuple[str, bool]]:
        reductions = torch.ops.aten.amax.default, torch.ops.aten.sum.dim_IntList
        found = [node for node in make_fx(function)(*inputs).graph.nodes if node.target in reductions]
        return [(str(node.target), len(node.args) > 2 and node.args[2]) for node in found]

    expected = operations(lambda values: prepare_softmax_pattern(values, -1), torch.randn(4, 9))
    rows, targets = torch.randn(4, 9, dtype=torch.bfloat16), torch.tensor([0, 3, 8, 1])
    assert operations(lambda *inputs: cross_entropy._statistics(*inputs, None), rows, targets) == expected
