"""The norms against their formulas in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recipes.config.schema import ParallelConfig
from recipes.model.build import transformer_config
from recipes.model.norm import LayerNorm, RMSNorm, TorchNorm
from tests.support.engine import TINY


def inputs() -> torch.Tensor:
    return torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_rms_norm() -> None:
    norm = RMSNorm(transformer_config(TINY, ParallelConfig(), torch.float32), 64, eps=0.1)
    gain = torch.rand(64, generator=torch.Generator().manual_seed(1))
    norm.weight.data.copy_(gain)
    x = inputs().double()
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * gain.double()
    torch.testing.assert_close(norm(inputs()).double(), expected, rtol=0, atol=2e-6)


def test_layer_norm() -> None:
    norm = LayerNorm(transformer_config(TINY, ParallelConfig(), torch.float32), 64, eps=0.1)
    generator = torch.Generator().manual_seed(1)
    gain, bias = torch.rand(64, generator=generator), torch.rand(64, generator=generator)
    norm.weight.data.copy_(gain)
    norm.bias.data.copy_(bias)
    x = inputs().double()
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * gain + bias
    torch.testing.assert_close(norm(inputs()).double(), expected, rtol=0, atol=2e-6)


ZERO_CENTRED = replace(TINY, megatron={"layernorm_zero_centered_gamma": True})


def test_zero_centred_rms_norm() -> None:
    norm = RMSNorm(transformer_config(ZERO_CENTRED, ParallelConfig(), torch.float32), 64, eps=0.1)
    x = inputs().double()
    normed = x / (x.pow(2).mean(-1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(norm(inputs()).double(), normed, rtol=0, atol=2e-6)
    offset = torch.rand(64, generator=torch.Generator().manual_seed(1)) - 0.5
    norm.weight.data.copy_(offset)
    torch.testing.assert_close(norm(inputs()).double(), normed * (1 + offset.double()), rtol=0, atol=2e-6)


def test_zero_centred_layer_norm() -> None:
    norm = LayerNorm(transformer_config(ZERO_CENTRED, ParallelConfig(), torch.float32), 64, eps=0.1)
    generator = torch.Generator().manual_seed(1)
    offset, bias = torch.rand(64, generator=generator) - 0.5, torch.rand(64, generator=generator)
    norm.weight.data.copy_(offset)
    norm.bias.data.copy_(bias)
    x = inputs().double()
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(
        norm(inputs()).double(), normed * (1 + offset.double()) + bias, rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_zero_centred_gains_keep_small_offsets_in_bfloat16(kind: type) -> None:
    """1 + 1/1024 is 1 in bfloat16; the offset must reach the product in fp32."""
    norm = kind(transformer_config(ZERO_CENTRED, ParallelConfig(), torch.bfloat16), 64, eps=1e-6)
    x = inputs().bfloat16()
    before = norm(x)
    norm.weight.data.fill_(1 / 1024)
    after = norm(x)
    assert before.dtype == after.dtype == torch.bfloat16
    # An eighth of a step of the result's size: about so many numbers round the other way.
    assert 0.03 < (after != before).float().mean() < 0.5


@pytest.mark.parametrize("sequence_parallel", [True, False])
@pytest.mark.parametrize(("name", "kind"), [("RMSNorm", RMSNorm), ("LayerNorm", LayerNorm)])
def test_weights_say_whether_their_gradients_are_summed(
    name: str, kind: type, sequence_parallel: bool
) -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=sequence_parallel)
    model = type(TINY)(**{**vars(TINY), "normalization": name})
    norm = TorchNorm(transformer_config(model, parallel, torch.bfloat16), 64, eps=1e-6)
    assert isinstance(norm, kind) and norm.eps == 1e-6
    for parameter in norm.parameters():
        assert parameter.sequence_parallel is sequence_parallel
        assert parameter.dtype == torch.bfloat16
