"""A run whose blend changes on the way, stopped and resumed in every place that matters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case


def run(pool: GlooPool, data: TinyData, output_dir: Path, steps: int) -> Outcome:
    sources = f"{{en:{{path:{data.prefix('train_en')}}},hi:{{path:{data.prefix('train_hi')}}}}}"
    phases = "[{until_step:6,train:{en:{}}},{until_tokens:2.5e3,train:{en:{},hi:{}}},{train:{hi:{}}}]"
    settings = data.overrides(
        output_dir=str(output_dir),
        save_nemo="false",
        data__train=sources,
        data__phases=phases,
        trainer__max_steps=str(steps),
    )
    outcome: Outcome = pool.run(1, run_case, settings)[0]
    assert outcome.code == 0, outcome.message
    return outcome


@pytest.mark.slow
def test_resuming_inside_a_phase_and_on_a_border(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    whole = run(gloo_pool, tiny_data, tmp_path / "whole", 14)
    assert len(whole.losses) == 14
    for steps in (4, 6, 8, 10, 14):  # Phases end after steps 6 and 10 (2,500 tokens are 9.8 steps of 256).
        outcome = run(gloo_pool, tiny_data, tmp_path / "parts", steps)
    assert outcome.losses == whole.losses
    # The phases are seen in what is read: without them the losses are others from step 7 on.
    plain = gloo_pool.run(
        1,
        run_case,
        tiny_data.overrides(
            output_dir=str(tmp_path / "plain"),
            save_nemo="false",
            data__train=f"{{en:{{path:{tiny_data.prefix('train_en')}}}}}",
            trainer__max_steps="8",
        ),
    )[0]
    assert [plain.losses[step] == whole.losses[step] for step in (1, 6, 7, 8)] == [True, True, False, False]
