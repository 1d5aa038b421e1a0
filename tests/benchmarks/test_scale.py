"""Layouts of many ranks in one process: every share once, and as large as the plan says."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.config.hydra_app import compose
from recipes.config.stages import stage_sizes
from recipes.families.family import tensor_table
from recipes.plan.stages import stage_tables, state_numbers
from recipes.plan.traffic import bucket_sizes
from tests.support.scale_cases import Rehearsed, rehearse

SIZE = 32
RUN = [
    "name=rehearsal",
    "data.seq_length=64",
    "trainer.max_steps=1",
    "optim.lr=1e-3",
    "trainer.precision=bf16",
]
LAYOUTS = {
    "data": ["model=tiny"],
    "tensor and pipeline": [
        "model=tiny",
        "parallel.tensor_model_parallel_size=2",
        "parallel.sequence_parallel=true",
        "parallel.pipeline_model_parallel_size=2",
    ],
    "buckets": [
        # 40 million numbers and more: the smallest bucket.
        "model=tiny",
        "model.vocab_size=90112",
        "model.hidden_size=512",
        "model.ffn_hidden_size=4096",
        "model.num_layers=8",
        "model.share_embeddings_and_output_weights=false",
        "parallel.overlap_grad_reduce=true",
    ],
    "experts": ["model=tiny_param2_moe", "parallel.expert_model_parallel_size=2"],
}


SLOW = pytest.param("buckets", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["data", "tensor and pipeline", "experts", SLOW])
def rehearsed(request: pytest.FixtureRequest, gloo_pool: Any) -> tuple[list[str], Rehearsed]:
    overrides = [*RUN, *LAYOUTS[request.param]]
    return overrides, gloo_pool.run(1, rehearse, overrides, SIZE)[0]


def test_a_checkpoint_holds_everything_once(rehearsed: tuple[list[str], Rehearsed]) -> None:
    """Weights, and of each trained number the main weight and two moments."""
    overrides, found = rehearsed
    table = tensor_table(compose("pretrain", overrides).model)
    assert found.numbers == sum(spec.stored_numbers() * (4 if spec.trained else 1) for spec in table)
    assert found.others_write == 0
    assert found.planned_items >= found.written_items > 0
    assert found.compared > SIZE * found.written_items / len(found.writers) / 2


def test_ranks_hold_what_the_plan_says(rehearsed: tuple[list[str], Rehearsed]) -> None:
    overrides, found = rehearsed
    config = compose("pretrain", overrides)
    parallel, sizes = config.parallel, stage_sizes(config.model, config.parallel)
    model_parallel = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    replicas = SIZE // model_parallel
    tables = stage_tables(config.model, sizes)
    for place, rank in enumerate(found.writers):
        table = [spec for spec in tables[rank // (SIZE // len(sizes))] if spec.trained]
        held = [state_numbers(spec, parallel, replicas) for spec in table]
        assert found.weights[place] == found.optimizer_numbers[place] == sum(numbers for numbers, _ in held)
        buckets = []
        for routed in (False, True):
            of_kind = [spec for spec in table if spec.routed is routed]
            buckets += bucket_sizes(of_kind, parallel, replicas)
        # megatron-core lets every tensor begin at a multiple of 64.
        assert found.buckets[place] == pytest.approx(buckets, abs=64 * len(table), rel=0)
