"""Every family goes the whole way: trained by recipes.pretrain, written as model.nemo, completed from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from recipes.checkpoint.formats.archive import read_member
from recipes.checkpoint.nemo.classic_config import CLASSIC_TARGET, OUR_TARGET
from tests.support.cases import completions, nemo_logits, training_logits
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case

FAMILIES = {
    "llama": [],
    "gemma3": ["model=tiny_gemma3"],
    "nano_hindi": ["model=tiny_nano_hindi", "optim=muon"],
    "param_moe": ["model=tiny_param_moe"],
    "param2_moe": ["model=tiny_param2_moe"],
}
TOKENS = [list(range(5, 37)), list(range(300, 332))]


@pytest.mark.parametrize("family", FAMILIES)
def test_chain(family: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = tiny_data.overrides(output_dir=str(tmp_path), trainer__max_steps="6")
    (outcome,) = gloo_pool.run(1, run_case, [*settings, *FAMILIES[family]])
    assert outcome.code == 0, outcome.message
    assert outcome.losses[6] < outcome.losses[1]
    run = tmp_path / "tiny"
    config = yaml.safe_load(read_member(run / "model.nemo", "model_config.yaml"))
    assert config["target"] == (CLASSIC_TARGET if family == "llama" else OUR_TARGET)
    (stored,) = gloo_pool.run(1, nemo_logits, str(run / "model.nemo"), TOKENS)
    (trained,) = gloo_pool.run(1, training_logits, str(run / "checkpoints" / "step_00000006"), TOKENS)
    assert np.abs(trained).max() > 0.1
    np.testing.assert_allclose(stored, trained[..., : stored.shape[-1]], atol=1e-5)
    (texts,) = gloo_pool.run(1, completions, str(run / "model.nemo"), ["भारत में", "The river"])
    assert all(isinstance(text, str) and text for text in texts)
