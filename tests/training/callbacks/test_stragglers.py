"""The slowest rank is named, with how much longer it works than the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.fault_cases import faulty_case
from tests.support.pool import GlooPool


@pytest.mark.slow
def test_the_slow_rank_is_named(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        data__valid="{}",
        trainer__max_steps="12",
        trainer__log_every_n_steps="4",
        trainer__guards__warn_of_stragglers_from="2",
    )
    slow = "slow:rank=1,step=5,until=8,seconds=2"
    outcome = gloo_pool.run(2, faulty_case, settings, slow)[0]
    found = {record["step"]: record for record in outcome.metrics if "slowest_rank" in record}
    assert [*found] == [4, 8, 12]
    assert found[8]["slowest_rank"] == 1
    assert found[8]["slowest_rank_ratio"] > 2
    assert found[8]["slowest_rank_ratio"] > max(found[step]["slowest_rank_ratio"] for step in (4, 12))
    assert "warning: step 8: rank 1 works " in outcome.stderr
