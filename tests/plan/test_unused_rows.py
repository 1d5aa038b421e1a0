"""A tokenizer that is much smaller than the model's vocabulary."""

from __future__ import annotations

from pathlib import Path

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.plan.dry_run import describe_run
from recipes.plan.unused_rows import unused_rows
from tests.support.configs import changed
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


def test_nano_hindi_with_8000_pieces() -> None:
    """60,096 rows of words (384), head (384) and four value embeddings (128 each)."""
    config = compose("pretrain", ["experiment=nano_hindi_25m"])
    text = unused_rows(config, 8000)
    assert text is not None and "\n" not in text
    assert "model.vocab_size=68,096, but tokenizer.model has 8,000 pieces" in text
    assert f"{60_096 * (2 * 384 + 4 * 128) / 1e6:.1f}M of 99.7M parameters are never used" in text
    assert text.endswith("set model.vocab_size=auto for a new run")
    assert unused_rows(config, 67_000) is None  # 1.4M, a seventieth of the model.
    assert unused_rows(changed(config, model__vocab_size=8000), 8000) is None


def test_learned_positions_are_used() -> None:
    config = compose("pretrain", ["experiment=param_moe_0p5b"])
    text = unused_rows(config, 28_002)
    assert text is not None and f"{100_000 * 2 * 768 / 1e6:.1f}M of" in text


def test_said_before_and_at_the_start(tiny_data: TinyData, tmp_path: Path, gloo_pool: GlooPool) -> None:
    overrides = tiny_data.overrides(
        output_dir=str(tmp_path), model__vocab_size="40000", trainer__max_steps="1", save_nemo="false"
    )
    config = compose("pretrain", [*overrides, "dry_run=true"])
    (row,) = [
        row for row in describe_run(config, validate_pretrain(config)).splitlines() if "never used" in row
    ]
    outcomes = gloo_pool.run(2, run_case, overrides)
    assert outcomes[0].stderr == f"warning: {row.partition('warning')[2].strip()}\n"
    assert outcomes[1].stderr == ""
