"""The nano_hindi family computes what its formulas say, written out again in tests/support/nano_reference.py.

Ours runs in float32, the reference in float64. Ours has no use for float64: logits are capped in float32, as
the card says, and megatron-core's rotary angles and cross entropy are float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.config.schema import ParallelConfig
from recipes.config.validate_model import validate_model
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.families.nano_hindi import value_embedding_layers
from recipes.model.build import build_gpt_model
from recipes.model.init import initialize_weights, sharded_tensors
from recipes.model.rotary import Beside
from recipes.plan.accounting import count_parameters
from tests.support.engine import initialized
from tests.support.nano_cases import initial_parts, losses_and_gradients, shaken
from tests.support.nano_reference import FEATURES, NanoReference
from tests.support.parity import (
    LENGTH,
    VOCABULARY,
    assert_cached_greedy_is_the_full_forward,
    assert_logits_losses_and_gradients_agree,
    assert_recomputation_changes_no_gradient,
    batch,
    gradients,
    split_qkv,
)
from tests.support.pool import GlooPool

pytestmark = pytest.mark.usefixtures("engine")

NANO = ModelConfig(
    family="nano_hindi",
    num_layers=6,
    hidden_size=64,
    ffn_hidden_size=256,
    num_attention_heads=4,
    num_query_groups=2,
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
    layernorm_epsilon=1e-2,
    activation="squared_relu",
    qk_layernorm=True,
    rotary_base=50,
    final_logit_softcapping=3.0,
    window_size=7,
    window_pattern="SSSL",
)
VARIANTS = {
    "gqa": {},
    "mqa": {"num_query_groups": 1, "window_pattern": "SL"},
    "mha": {"num_query_groups": 4, "window_size": 2},
    "odd_layers_full_attention": {"num_layers": 5, "window_size": None, "window_pattern": None},
    "narrow_heads": {"kv_channels": 8, "final_logit_softcapping": 1.5},
}


def reference_names(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Weights (or their gradients) of GPTModel under the reference's names, as float64."""
    out = {
        "word_embeddings": tensors["embedding.word_embeddings.weight"],
        "output_layer": tensors["output_layer.weight"],
    }
    for i in range(model.num_layers):
        ours = f"decoder.layers.{i}."
        qkv = split_qkv(tensors[ours + "self_attention.linear_qkv.weight"], model)
        out |= {f"{i}.{letter}": part for letter, part in qkv.items()}
        out[f"{i}.proj"] = tensors[ours + "self_attention.linear_proj.weight"]
        out[f"{i}.fc1"] = tensors[ours + "mlp.linear_fc1.weight"]
        out[f"{i}.fc2"] = tensors[ours + "mlp.linear_fc2.weight"]
        out[f"{i}.resid_lambda"] = tensors[ours + "resid_lambda"]
        out[f"{i}.x0_lambda"] = tensors[ours + "x0_lambda"]
        if (model.num_layers - 1 - i) % 2 == 0:
            out[f"{i}.value_embedding"] = tensors[ours + "self_attention.value_embedding.weight"]
            out[f"{i}.value_gate"] = tensors[ours + "self_attention.value_gate.weight"]
    return {name: tensor.detach().cpu().double() for name, tensor in out.items()}


def reference(model: ModelConfig) -> NanoReference:
    return NanoReference(
        num_layers=model.num_layers,
        heads=model.num_attention_heads,
        groups=model.num_query_groups or model.num_attention_heads,
        rotary_base=model.rotary_base,
        eps=model.layernorm_epsilon,
        soft_cap=model.final_logit_softcapping or math.inf,
        window=model.window_size,
        pattern=model.window_pattern or "L",
    )


def weights_of(gpt: GPTModel, model: ModelConfig) -> dict[str, Tensor]:
    weights = reference_names(dict(gpt.named_parameters()), model)
    return {name: weight.clone().requires_grad_() for name, weight in weights.items()}


def scalars_together(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All layers' as one tensor: each is a sum that nearly cancels, the largest tells its terms' size."""
    out = {name: gradient for name, gradient in gradients.items() if gradient.numel() > 1}
    for kind in ("resid_lambda", "x0_lambda"):
        out[kind] = torch.cat([gradient for name, gradient in gradients.items() if name.endswith(kind)])
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_losses_and_gradients(variant: str) -> None:
    model = replace(NANO, **VARIANTS[variant])
    gpt = shaken(initialized(model))
    weights = weights_of(gpt, model)
    assert gpt(*batch()[::2], None).dtype == torch.float32
    assert_logits_losses_and_gradients_agree(
        gpt,
        lambda tokens: reference(model).logits(weights, tokens.cpu()),
        lambda tensors: scalars_together(reference_names(tensors, model)),
        lambda: scalars_together({name: weight.grad for name, weight in weights.items()}),
    )
    assert gradients(gpt).keys() == dict(gpt.named_parameters()).keys()


@pytest.mark.parametrize("feature", FEATURES)
def test_comparison_notices_a_missing_feature(feature: str) -> None:
    """Guards the comparison above: without any one feature, logits differ by far more than its 1e-5."""
    weights = weights_of(shaken(initialized(NANO)), NANO)
    tokens = batch()[0].cpu()
    whole = reference(NANO).logits(weights, tokens)
    assert (replace(reference(NANO), without=[feature]).logits(weights, tokens) - whole).abs().max() > 0.01


@pytest.mark.parametrize("variant", ["gqa", "odd_layers_full_attention"])
def test_greedy_decoding_with_the_cache_repeats_the_full_forward(variant: str) -> None:
    gpt = shaken(initialized(replace(NANO, **VARIANTS[variant]))).eval()
    assert_cached_greedy_is_the_full_forward(gpt)


# Which module of the first layer with a value embedding runs again during the backward pass.
RECOMPUTATIONS = {
    "full": (
        ParallelConfig(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=2),
        "self_attention.value_gate",
    ),
    "full_blocks": (
        ParallelConfig(recompute_granularity="full", recompute_method="block", recompute_num_layers=3),
        "self_attention.value_gate",
    ),
    "core_attn": (
        ParallelConfig(recompute_granularity="selective", recompute_modules=["core_attn"]),
        "self_attention.core_attention",
    ),
    "mlp": (ParallelConfig(recompute_granularity="selective", recompute_modules=["mlp"]), "mlp.linear_fc1"),
}


@pytest.mark.parametrize("kind", RECOMPUTATIONS)
def test_recomputation_changes_no_gradient(kind: str) -> None:
    parallel, repeated = RECOMPUTATIONS[kind]
    # x0's gradient sums the layers' parts, and recomputation sums them in another order.
    assert_recomputation_changes_no_gradient(
        lambda parallel: shaken(initialized(NANO, parallel=parallel)),
        parallel,
        f"decoder.layers.1.{repeated}",
        tolerance=1e-6,
    )


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tp2", "tp2_sp"])
def test_tensor_parallel_gradients_are_the_single_process_ones(
    gloo_pool: GlooPool, sequence_parallel: bool
) -> None:
    """Of every parameter on every rank, replicated ones too."""
    (expected_losses, expected) = gloo_pool.run(1, losses_and_gradients, NANO, ParallelConfig())[0]
    parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=sequence_parallel)
    for losses, found in gloo_pool.run(2, losses_and_gradients, NANO, parallel):
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
        assert found.keys() == expected.keys()
        for name, (place, gradient) in found.items():
            _, whole = expected[name]
            # A scalar's gradient is a sum that nearly cancels: other layers' tell what size its terms have.
            kind = name.split(".")[-1] if whole.size == 1 else name
            atol = 2e-5 * max(np.abs(g).max() for other, (_, g) in expected.items() if other.endswith(kind))
            np.testing.assert_allclose(gradient, whole[place], rtol=0, atol=atol, err_msg=name)
    split = {name for name, (_, gradient) in found.items() if gradient.shape != expected[name][1].shape}
    assert len(split) == 2 + 6 * 4 + 3 * 2, "all but the scalars"


def test_tensor_parallelism_starts_from_the_same_weights(gloo_pool: GlooPool) -> None:
    model = replace(NANO, vocab_size=1500)  # Two blocks of random rows.
    parallel = ParallelConfig(tensor_model_parallel_size=2)
    whole = {shard.key: shard.data.detach().cpu().numpy() for shard in sharded_tensors(initialized(model, 7))}
    for parts in gloo_pool.run(2, initial_parts, model, parallel, 7):
        assert parts.keys() == whole.keys()
        for name, (place, values) in parts.items():
            np.testing.assert_array_equal(values, whole[name][place], name)


def test_checkpoint_names() -> None:
    """A layer's names carry its number: layers differ in what they have."""
    keys = {shard.key for shard in sharded_tensors(initialized(NANO))}
    expected = {"embedding.word_embeddings.weight", "output_layer.weight"}
    for layer in range(6):
        prefix = f"decoder.layers.{layer}."
        expected |= {
            prefix + "resid_lambda",
            prefix + "x0_lambda",
            prefix + "self_attention.linear_qkv.weight",
            prefix + "self_attention.linear_proj.weight",
            prefix + "mlp.linear_fc1.weight",
            prefix + "mlp.linear_fc2.weight",
        }
        if layer in (1, 3, 5):
            expected |= {
                prefix + "self_attention.value_embedding.weight",
                prefix + "self_attention.value_gate.weight",
            }
    assert keys == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_that_accounting_counts(variant: str) -> None:
    model = replace(NANO, **VARIANTS[variant])
    parameters = sum(parameter.numel() for parameter in initialized(model).parameters())
    assert parameters == count_parameters(model).total


@pytest.mark.parametrize(("layers", "expected"), [(6, [1, 3, 5]), (5, [0, 2, 4])])
def test_value_embeddings_are_on_every_other_layer_and_the_last(layers: int, expected: list[int]) -> None:
    embeds = value_embedding_layers(replace(NANO, num_layers=layers))
    assert [layer for layer, has in enumerate(embeds) if has] == expected


def test_initial_values() -> None:
    model = replace(NANO, num_layers=2)
    bound = math.sqrt(3 / 64)
    names = []
    for name, parameter in initialized(model).named_parameters():
        last = ".".join(name.split(".")[-2:])
        names.append(last)
        if last in ("linear_proj.weight", "linear_fc2.weight", "value_gate.weight"):
            assert torch.count_nonzero(parameter) == 0, name
        elif last.endswith("resid_lambda"):
            assert parameter.tolist() == [1.0]
        elif last.endswith("x0_lambda"):
            assert parameter.tolist() == pytest.approx([0.1])
        elif last in ("word_embeddings.weight", "output_layer.weight"):
            std = 1.0 if last == "word_embeddings.weight" else 0.001
            assert parameter.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * parameter.numel()))
            assert parameter.abs().max().item() > 2 * std, "not uniform"
        else:
            assert 0.99 * bound < parameter.abs().max().item() <= bound, name
            assert parameter.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.03), name
    assert len(names) == 2 + 2 * 6 + 2


def test_first_step_sees_the_value_embeddings_as_they_are() -> None:
    """With gates of zero 2 * sigmoid(0) = 1; the head's small weights make the first loss ln(vocabulary)."""
    gpt = initialized(NANO)
    tokens, labels, positions = batch()
    layer = gpt.decoder.layers[1].self_attention
    embedded = torch.randn(LENGTH, 3, 64, generator=torch.Generator().manual_seed(4)).to(tokens.device)
    ids = tokens.t().contiguous()
    _, _, value = layer.get_query_key_value_tensors(embedded, Beside(rotary=None, key_value_states=ids))
    rows = split_qkv(layer.linear_qkv.weight, NANO)["v"]
    expected = embedded @ rows.T + layer.value_embedding.weight[ids]
    torch.testing.assert_close(value.flatten(2), expected, rtol=0, atol=1e-5)
    loss = gpt(tokens, positions, None, labels=labels).mean().item()
    assert loss == pytest.approx(math.log(VOCABULARY), abs=1e-3)


def test_bfloat16_keeps_its_types_and_caps_in_float32() -> None:
    gpt = build_gpt_model(NANO, ParallelConfig(), torch.bfloat16)
    initialize_weights(gpt, NANO, 1)
    gpt = shaken(gpt.to("cuda"))
    for name, parameter in gpt.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith("_lambda") else torch.bfloat16), name
    streams: list[torch.dtype] = []
    for layer in gpt.decoder.layers:
        layer.register_forward_hook(lambda *results: streams.append(results[-1][0].dtype))
    tokens, labels, positions = batch()
    logits = gpt(tokens, positions, None)
    assert streams == [torch.bfloat16] * 6
    expected = reference(NANO).logits(weights_of(gpt, NANO), tokens.cpu())
    assert logits.dtype == torch.float32 and logits.abs().max() <= 3.0
    assert (logits.cpu() - expected).abs().mean() < 0.05
    gpt(tokens, positions, None, labels=labels).mean().backward()
    assert all(parameter.grad is not None for parameter in gpt.parameters())


def test_no_soft_cap_leaves_the_logits() -> None:
    model = replace(NANO, final_logit_softcapping=None)
    gpt, capped = shaken(initialized(model)), shaken(initialized(NANO))
    tokens, _, positions = batch()
    logits = gpt(tokens, positions, None)
    assert logits.abs().max() > 3.0
    torch.testing.assert_close(3 * torch.tanh(logits / 3), capped(tokens, positions, None))


@pytest.mark.parametrize("field", ["distribute_saved_activations", "fp32_residual_connection"])
def test_megatron_settings_that_the_family_cannot_have(field: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.megatron\.{field}=True: .*; remove it$"):
        validate_model(replace(NANO, megatron={field: True}))
