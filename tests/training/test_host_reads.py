"""Steps that are not logged read nothing from the device. The same on a GPU: tests/cuda/test_steps.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.device_runs import FAMILIES
from tests.support.host_reads import host_reads_case
from tests.support.pool import GlooPool


@pytest.mark.parametrize(
    ("family", "ranks"), [("tiny", 1), ("tiny", 2), ("tiny_nano_hindi", 1), ("tiny_gemma3", 1)]
)
def test_only_logged_steps_wait(
    family: str, ranks: int, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Of models without experts: these are sent to their ranks by counts that the host must know."""
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        data__valid="{}",
        trainer__max_steps="9",
        trainer__log_every_n_steps="4",
    )
    for outcome, reads in gloo_pool.run(ranks, host_reads_case, [*settings, *FAMILIES[family]]):
        assert outcome.code == 0, outcome.message
        assert [step for step, count in reads.items() if count] == [1, 4, 8], reads
