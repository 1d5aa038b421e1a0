"""torch.compile changes the speed of a run and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "tiny_gemma3", "tiny_nano_hindi"])
def test_losses_are_the_same(model: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = {"trainer__max_steps": "5", "save_nemo": "false", "model": model}
    losses = {}
    for name, compiled in (("eager", "false"), ("compiled", "true")):
        overrides = tiny_data.overrides(
            name=name, output_dir=str(tmp_path), trainer__compile=compiled, **settings
        )
        (outcome,) = gloo_pool.run(1, run_case, overrides)
        assert outcome.code == 0, outcome.message
        losses[name] = outcome.losses
    assert len(losses["eager"]) == 5
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-5)


@pytest.mark.slow
def test_micro_batches_of_several_sizes(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Validation is at the first length in all of them."""
    phases = (
        "[{until_step:2},{until_step:4,seq_length:48,rotary_base:50000},{micro_batch_size:1,seq_length:16}]"
    )
    losses = []
    for name in ("false", "true"):
        overrides = tiny_data.overrides(
            name=f"compile_{name}",
            output_dir=str(tmp_path),
            save_nemo="false",
            phases=phases,
            trainer__compile=name,
            trainer__max_steps="6",
            trainer__val_check_interval="1",
        )
        (outcome,) = gloo_pool.run(1, run_case, overrides)
        assert outcome.code == 0, outcome.message
        found = [r["valid.en.loss"] for r in outcome.metrics if "valid.en.loss" in r]
        losses.append([*outcome.losses.values(), *found])
    assert len(losses[0]) == 12 and losses[1] == pytest.approx(losses[0], rel=1e-5)
