"""Ranks that share a model decode it as its GPTModel computes it: every family, every position."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.checkpoint.formats.names import with_layers_from
from recipes.config.schema import ParallelConfig
from recipes.config.validate_parallel import validate_parallel
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.inference.decode.test_forward import MORE
from tests.support.decode_cases import split_case, split_reason_case
from tests.support.huggingface_models import CASES, EXPERTS, LLAMA
from tests.support.pool import GlooPool

TP_2, PP_2 = ParallelConfig(tensor_model_parallel_size=2), ParallelConfig(pipeline_model_parallel_size=2)
TP_2_PP_2 = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)


def ranks_of(parallel: ParallelConfig) -> int:
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size


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
    ],
    ids=["tp2", "pp2", "tp2_pp2"],
)
def test_every_position_agrees(parallel: ParallelConfig, among_them: set[str]) -> None:
    models = possible(parallel)
    assert among_them <= set(models)
    GlooPool().run(ranks_of(parallel), split_case, list(models.values()), parallel)


@pytest.mark.parametrize(
    ("model", "parallel", "reason"),
    [
        (EXPERTS, replace(TP_2, sequence_parallel=True), "experts are split over ranks"),
        (EXPERTS, ParallelConfig(expert_model_parallel_size=2), "experts are split over ranks"),
        (LLAMA, ParallelConfig(context_parallel_size=2), "texts are split over ranks"),
        (LLAMA, replace(TP_2, sequence_parallel=True), None),
    ],
    ids=["experts_tp", "experts_ep", "cp", "sequence_parallel"],
)
def test_other_ways_to_split_are_known(
    model: ModelConfig, parallel: ParallelConfig, reason: str | None
) -> None:
    assert GlooPool().run(2, split_reason_case, model, parallel) == [reason] * 2


def test_layers_are_numbered_through() -> None:
    assert with_layers_from(3, "decoder.layers.1.mlp.linear_fc1.weight") == (
        "decoder.layers.4.mlp.linear_fc1.weight"
    )
    assert with_layers_from(3, "decoder.final_layernorm.weight") == "decoder.final_layernorm.weight"
