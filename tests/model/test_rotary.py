"""Rotary tables and rotated keys, against the rotation of complex numbers in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor

from recipes.model.build import set_rotary_base
from recipes.model.qkv import kernels_agree, rotated_qkv, works_on_gpu
from recipes.model.rotary import Beside, RotaryEmbedding
from tests.support.engine import TINY, initialized
from tests.support.linear_cases import MODELS, losses, tokens, trained

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


@pytest.mark.parametrize("in_one_pass", [False, True])
@pytest.mark.parametrize("percent", [1.0, 0.5])
def test_queries_and_keys_are_rotated(percent: float, in_one_pass: bool) -> None:
    model = replace(TINY, rotary_percent=percent, rotary_base=500)
    gpt = initialized(model)
    attention = gpt.decoder.layers[0].self_attention
    attention.rotates_in_one_pass = in_one_pass
    hidden = torch.randn(LENGTH, 2, model.hidden_size, generator=torch.Generator().manual_seed(2)).to("cuda")
    plain = attention.get_query_key_value_tensors(hidden, Beside(None, None))
    found = attention.get_query_key_value_tensors(hidden, Beside(gpt.rotary_pos_emb(LENGTH), None))
    channels = int(plain[0].shape[-1] * percent)
    for before, after in zip(plain[:2], found[:2], strict=True):
        expected = rotated(before.detach().cpu(), 500.0, channels)
        torch.testing.assert_close(after.detach().cpu().double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2], plain[2], rtol=0, atol=0)


def test_one_pass_has_the_gradients_of_torch() -> None:
    """Of queries, keys and values in the layout in which attention hands their gradients back."""
    generator = torch.Generator().manual_seed(4)
    groups, queries, width = 2, 3, 32
    mixed = torch.randn(LENGTH, 2, groups, (queries + 2) * width, generator=generator).double()
    angles = torch.randn(LENGTH, width // 2, generator=generator).double().repeat(1, 2)
    tables = torch.stack((angles.cos(), angles.sin()))
    given = [
        torch.randn(2, heads, LENGTH, width, generator=generator).double().permute(2, 0, 1, 3)
        for heads in (groups * queries, groups, groups)
    ]
    one, other = mixed.clone().requires_grad_(), mixed.clone().requires_grad_()
    heads = other.unflatten(-1, (-1, width))
    halves = torch.cat((-heads[..., width // 2 :], heads[..., : width // 2]), dim=-1)
    turned = heads * tables[0, :, None, None, None] + halves * tables[1, :, None, None, None]
    expected = turned[..., :-2, :].flatten(2, 3), turned[..., -2, :], heads[..., -1, :]
    found = rotated_qkv(one, tables)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.autograd.backward(found, given)
    torch.autograd.backward(expected, given)
    torch.testing.assert_close(one.grad, other.grad)


def test_one_pass_is_one_graph_and_changes_no_gradient() -> None:
    """As on a GPU, where layers are compiled; see also tests/cuda/test_kernels.py."""

    def gradients(in_one_pass: bool) -> dict[str, Tensor]:
        torch._dynamo.reset()
        gpt = initialized(TINY)
        for layer in gpt.decoder.layers:
            assert not layer.self_attention.rotates_in_one_pass or torch.cuda.is_available()
            layer.self_attention.rotates_in_one_pass = in_one_pass
            layer.compile(backend="aot_eager", fullgraph=True)
        losses(gpt, tokens()).backward()
        return {name: weight.grad for name, weight in gpt.named_parameters() if weight.grad is not None}

    expected, found = gradients(False), gradients(True)
    assert expected.keys() == found.keys() and expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=2e-6 * gradient.abs().max().item())


def test_kernels_that_fail_are_done_without(capsys: pytest.CaptureFixture[str]) -> None:
    """A device that torch does not have stands for a machine whose Triton cannot compile."""
    works_on_gpu.cache_clear()
    assert not works_on_gpu(torch.device("vulkan"))
    assert "rotated without Triton" in capsys.readouterr().err
    works_on_gpu.cache_clear()


@torch.no_grad()
def test_kernels_are_compared_with_torch() -> None:
    """Such as read the first half of the tables alone, as ours do; and such as turn the wrong way."""

    def rotated(mixed: Tensor, tables: Tensor, sign: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        low, high = mixed.unflatten(-1, (-1, 2, tables.shape[-1] // 2)).unbind(-2)
        cos, sin = tables[:, :, None, None, None, : tables.shape[-1] // 2]
        heads = mixed.unflatten(-1, (-1, tables.shape[-1]))
        turned = torch.cat((low * cos - sign * high * sin, high * cos + sign * low * sin), dim=-1)
        return turned[..., :-2, :].flatten(2, 3), turned[..., -2, :], heads[..., -1, :]

    def gradient(query: Tensor, key: Tensor, value: Tensor, tables: Tensor) -> Tensor:
        length, batch, groups, width = key.shape
        columns = (query.shape[2] // groups + 2) * width
        with torch.enable_grad():
            mixed = torch.zeros(length, batch, groups, columns, requires_grad=True)
            return torch.autograd.grad(rotated(mixed, tables), mixed, (query, key, value))[0]

    cpu = torch.device("cpu")
    assert kernels_agree(cpu, rotated, gradient)
    assert not kernels_agree(cpu, lambda *args: rotated(*args, sign=-1.0), gradient)


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


@pytest.mark.parametrize("family", ["gemma3", "nano_hindi"])
def test_groups_are_normed_as_megatron_core_norms_heads(family: str) -> None:
    gpt, ids = trained(replace(MODELS[family], num_query_groups=2), torch.float32).double(), tokens()
    found = []
    for norms_groups in (True, False):
        for layer in gpt.decoder.layers:
            assert layer.self_attention.norms_groups  # Each layer of these families can.
            layer.self_attention.norms_groups = norms_groups
        of_tokens = losses(gpt, ids)
        found.append((of_tokens, *torch.autograd.grad(of_tokens.sum(), list(gpt.parameters()))))
        for layer in gpt.decoder.layers:
            layer.self_attention.norms_groups = True
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)


def test_transformer_engine_gets_angles() -> None:
    config = initialized(TINY).config
    tables = RotaryEmbedding(config, rotary_base=100, rotary_percent=1.0)(LENGTH)
    config.apply_rope_fusion = True
    angles = RotaryEmbedding(config, rotary_base=100, rotary_percent=1.0)(LENGTH)
    assert angles.shape == tables.shape[1:]
    torch.testing.assert_close(torch.stack((angles.cos(), angles.sin())), tables)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_another_base_from_now_on(family: str) -> None:
    """As if the model had been built with it; of two bases that of full attention."""
    model = replace(MODELS[family], rotary_base=500)
    gpt, other = initialized(model), initialized(replace(model, rotary_base=9000))
    ids = tokens()
    before = losses(gpt, ids)
    set_rotary_base(gpt, 9000)
    assert gpt.description == other.description
    assert not torch.equal(losses(gpt, ids), before)
    torch.testing.assert_close(losses(gpt, ids), losses(other, ids), rtol=0, atol=0)
    set_rotary_base(gpt, 500)
    torch.testing.assert_close(losses(gpt, ids), before, rtol=0, atol=0)
