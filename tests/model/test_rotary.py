"""Rotary tables and rotated keys, against the rotation of complex numbers in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor

from recipes.model.rotary import Beside, RotaryEmbedding
from tests.support.engine import TINY, initialized

pytestmark = pytest.mark.usefixtures("engine")

LENGTH = 12


def rotated(states: Tensor, base: float, channels: int) -> Tensor:
    """RoFormer's eq. 13 with complex numbers: channel i and channel i + r/2 are one number."""
    half = channels // 2
    numbers = torch.complex(states[..., :half].double(), states[..., half:channels].double())
    angles = torch.outer(
        torch.arange(len(states)).double(), base ** (-torch.arange(half).double() * 2 / channels)
    )
    turned = numbers * torch.polar(torch.ones_like(angles), angles)[:, None, None]
    return torch.cat((turned.real, turned.imag, states[..., channels:].double()), dim=-1)


@pytest.mark.parametrize("percent", [1.0, 0.5])
def test_queries_and_keys_are_rotated(percent: float) -> None:
    model = replace(TINY, rotary_percent=percent, rotary_base=500)
    gpt = initialized(model)
    attention = gpt.decoder.layers[0].self_attention
    hidden = torch.randn(LENGTH, 2, model.hidden_size, generator=torch.Generator().manual_seed(2)).to("cuda")
    plain = attention.get_query_key_value_tensors(hidden, Beside(None, None))
    found = attention.get_query_key_value_tensors(hidden, Beside(gpt.rotary_pos_emb(LENGTH), None))
    channels = int(plain[0].shape[-1] * percent)
    for before, after in zip(plain[:2], found[:2], strict=True):
        expected = rotated(before.detach().cpu(), 500.0, channels)
        torch.testing.assert_close(after.detach().cpu().double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2], plain[2], rtol=0, atol=0)


@torch.no_grad()
def test_a_cache_holds_keys_rotated_by_their_own_positions() -> None:
    """Read in pieces, a sequence gives the logits that it gives as a whole."""
    gpt = initialized(TINY).eval()
    tokens = torch.randint(100, (2, LENGTH), generator=torch.Generator().manual_seed(3)).to("cuda")
    positions = torch.arange(LENGTH, device=tokens.device).expand_as(tokens)
    expected = gpt(tokens, positions, None)
    context = StaticInferenceContext(max_batch_size=2, max_sequence_length=LENGTH)
    context.materialize_only_last_token_logits = False
    pieces = []
    for start, end in ((0, 5), (5, 6), (6, 7), (7, LENGTH)):
        piece = slice(start, end)
        pieces.append(
            gpt(
                tokens[:, piece],
                positions[:, piece],
                None,
                inference_context=context,
                runtime_gather_output=True,
            )
        )
        context.increment_sequence_len_offset(end - start)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=0, atol=1e-5)


def test_transformer_engine_gets_angles() -> None:
    config = initialized(TINY).config
    tables = RotaryEmbedding(config, rotary_base=100, rotary_percent=1.0)(LENGTH)
    config.apply_rope_fusion = True
    angles = RotaryEmbedding(config, rotary_base=100, rotary_percent=1.0)(LENGTH)
    assert angles.shape == tables.shape[1:]
    torch.testing.assert_close(torch.stack((angles.cos(), angles.sin())), tables)
