"""Replicas whose weights differ by one bit end the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.fault_cases import faulty_case
from tests.support.pool import GlooPool

GUARD = 4
LAYOUTS = {"dp2": [], "muon": ["model=tiny_nano_hindi", "optim=muon"]}
EXPERTS = ["model=tiny_param_moe", "parallel.expert_model_parallel_size=1"]
LAYOUTS["experts"] = EXPERTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_is_found(
    layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path), save_nemo="false", data__valid="{}", trainer__max_steps="6"
    )
    settings += [*LAYOUTS[layout], "name=tiny", "trainer.guards.compare_replicas_every_n_steps=2"]
    outcomes = gloo_pool.run(2, faulty_case, settings, "flipped_bit:rank=1,step=4")
    assert [outcome.code for outcome in outcomes] == [GUARD, GUARD]
    assert "stopped by a guard: step 4: weights differ between data-parallel replicas" in outcomes[0].stderr
    for rank, outcome in enumerate(outcomes):
        assert f"warning: step 4, rank {rank}: decoder.layers.0." in outcome.stderr
        assert "step 2" not in outcome.stderr, "equal weights are no reason to stop"
    assert max(outcomes[0].losses) <= 4
