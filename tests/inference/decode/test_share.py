"""Ranks that share a model decode it as its GPTModel computes it: every family, every position."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.checkpoint.formats.names import numbered_from
from recipes.config.schema import ParallelConfig
from recipes.config.validate_parallel import validate_parallel
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.inference.decode.test_forward import MORE
from tests.support.decode_cases import split_case, split_reason_case
from tests.support.huggingface_models import CASES, LLAMA
from tests.support.pool import GlooPool

TP_2, PP_2 = ParallelConfig(tensor_model_parallel_size=2), ParallelConfig(pipeline_model_parallel_size=2)
TP_2_PP_2 = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
EP_2 = ParallelConfig(expert_model_parallel_size=2)
EP_2_PP_2 = replace(PP_2, expert_model_parallel_size=2)
# Parts of every expert on both ranks; then each rank has experts of its own beside its part of the rest.
TP_2_SP = replace(TP_2, sequence_parallel=True)
TP_2_EP_2 = replace(TP_2_SP, expert_model_parallel_size=2, expert_tensor_parallel_size=1)


def ranks_of(parallel: ParallelConfig) -> int:
    tp = parallel.tensor_model_parallel_size
    experts = (parallel.expert_tensor_parallel_size or tp) * parallel.expert_model_parallel_size
    return max(tp, experts) * parallel.pipeline_model_parallel_size


def possible(parallel: ParallelConfig) -> dict[str, ModelConfig]:
    """The models that can be split so."""
    parallel = replace(parallel, world_size=ranks_of(parallel))
    found = {}
    for name, model in (CASES | MORE).items():
        try:
            validate_parallel(parallel, model, check_launcher=False)
        except UserError:
            continue
        found[name] = model
    return found


@pytest.mark.parametrize(
    ("parallel", "among_them"),
    [
        (TP_2, {"llama", "llama_tied_mha", "gemma3", "nano_hindi", "gelu_and_biases", "learned_positions"}),
        (PP_2, {"llama", "llama_tied_mha", "gemma3", "qwen3_moe", "glm4_moe", "param_moe"}),
        (TP_2_PP_2, {"llama", "llama_tied_mha", "gemma3", "gelu_and_biases", "learned_positions"}),
        (EP_2, {"qwen3_moe", "mixtral", "glm4_moe", "gated_shared_expert", "param_moe"}),
        (EP_2_PP_2, {"qwen3_moe", "glm4_moe", "param_moe"}),
        (TP_2_SP, {"llama", "qwen3_moe", "mixtral", "glm4_moe", "gated_shared_expert"}),
        (TP_2_EP_2, {"qwen3_moe", "mixtral", "glm4_moe", "gated_shared_expert", "param_moe"}),
    ],
    ids=["tp2", "pp2", "tp2_pp2", "ep2", "ep2_pp2", "tp2_sp", "tp2_ep2"],
)
def test_every_position_agrees(parallel: ParallelConfig, among_them: set[str]) -> None:
    models = possible(parallel)
    assert among_them <= set(models)
    GlooPool().run(ranks_of(parallel), split_case, list(models.values()), parallel)


def test_texts_that_are_split_are_not_decoded() -> None:
    parallel = ParallelConfig(context_parallel_size=2)
    assert GlooPool().run(2, split_reason_case, LLAMA, parallel) == ["texts are split over ranks"] * 2


def test_layers_and_experts_are_numbered_through() -> None:
    for own, whole in (
        ("decoder.layers.1.mlp.linear_fc1.weight", "decoder.layers.4.mlp.linear_fc1.weight"),
        ("decoder.layers.0.mlp.experts.linear_fc2.bias11", "decoder.layers.3.mlp.experts.linear_fc2.bias13"),
        (
            "decoder.layers.1.mlp.shared_experts.linear_fc1.weight",
            "decoder.layers.4.mlp.shared_experts.linear_fc1.weight",
        ),
        ("decoder.final_layernorm.weight", "decoder.final_layernorm.weight"),
    ):
        assert numbered_from(3, 2, own) == whole
