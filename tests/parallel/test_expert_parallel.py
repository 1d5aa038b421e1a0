"""Expert parallelism under the stand-in: megatron-core's mixture of experts trains and saves on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.config.schema import ParallelConfig
from tests.support.expert_cases import STEPS, train_moe
from tests.support.pool import GlooPool


def test_two_ranks_share_the_experts(gloo_pool: GlooPool, tmp_path: Path) -> None:
    first, second = gloo_pool.run(
        2, train_moe, ParallelConfig(expert_model_parallel_size=2), str(tmp_path / "ep2")
    )
    (single,) = gloo_pool.run(1, train_moe, ParallelConfig(), str(tmp_path / "single"))
    assert (first["experts"], second["experts"], single["experts"]) == (
        4,
        4,
        8,
    )  # fc1 and fc2 of 2, 2 and 4 experts.
    for result in (first, second, single):
        assert len(result["losses"]) == STEPS
        assert result["losses"][-1] < result["losses"][0] - 0.5
        # What was saved is what is loaded: the same steps again give the same losses.
        assert result["again"] == pytest.approx(result["continued"], rel=1e-5)
        assert result["again"][0] < result["losses"][-1]
    assert first["losses"] == second["losses"]
