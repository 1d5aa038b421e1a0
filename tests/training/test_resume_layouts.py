"""A run that is resumed under one layout after the other is trained on the same samples in the same order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.sample_cases import Batches, recording_case, samples

# Layout, micro-batch size, and the step that its part of the run ends with.
PARTS = [("dp2", 1, 3), ("tp2_sp", 4, 6), ("pp2", 2, 9), ("tp2_pp2", 2, 12), ("single", 8, 15)]


@pytest.mark.slow
def test_every_change_of_layout(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    def settings(directory: Path, steps: int, micro_batch_size: int) -> list[str]:
        return tiny_data.overrides(
            output_dir=str(directory),
            save_nemo="false",
            data__valid="{}",
            trainer__max_steps=str(steps),
            trainer__micro_batch_size=str(micro_batch_size),
            trainer__checkpoint__async_save="true",
            trainer__checkpoint__every_n_steps="2",
        )

    undisturbed = gloo_pool.run(1, recording_case, settings(tmp_path / "whole", PARTS[-1][2], 2))
    expected = samples(undisturbed, 2)
    assert sorted(expected) == list(range(1, PARTS[-1][2] + 1))
    seen: Batches = {}
    for layout, micro_batch_size, steps in PARTS:
        size, overrides = LAYOUTS.get(layout, (1, ["parallel=single"]))
        results = gloo_pool.run(
            size, recording_case, [*settings(tmp_path, steps, micro_batch_size), *overrides]
        )
        assert [outcome.code for outcome, _, _ in results] == [0] * size
        part = samples(results, micro_batch_size)
        assert not seen.keys() & part.keys()
        seen |= part
    assert seen == expected
    assert results[0][0].losses == pytest.approx(undisturbed[0][0].losses, rel=1e-4)
    assert len(results[0][0].losses) == PARTS[-1][2]
