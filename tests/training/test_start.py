"""A phase of a recipe starts from the phase before: its weights or its full state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.checkpoint.convert import convert
from tests.support.cases import nemo_logits
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

TOKENS = [list(range(5, 37))]


@pytest.fixture(scope="module")
def first_phase(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of phase 1: ten steps over two tensor-parallel processes."""
    output = tmp_path_factory.mktemp("phases")
    overrides = tiny_data.overrides(name="first", output_dir=str(output), trainer__max_steps="10")
    outcome = gloo_pool.run(2, run_case, [*overrides, "parallel=tp2"])[0]
    assert outcome.code == 0
    return output / "first"


def second_phase(
    pool: GlooPool, data: TinyData, output: Path, init_from: Path, state: str = "weights", steps: int = 3
) -> Outcome:
    settings = {"name": "second", "output_dir": str(output), "trainer__max_steps": str(steps)}
    overrides = data.overrides(**settings, init_from=str(init_from), init_from_state=state)
    outcome: Outcome = pool.run(1, run_case, overrides)[0]
    return outcome


@pytest.mark.parametrize("kind", ["run directory", "checkpoint", "nemo"])
def test_weights(
    kind: str, first_phase: Path, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    init_from = {
        "run directory": first_phase,
        "checkpoint": first_phase / "checkpoints" / "step_00000010",
        "nemo": first_phase / "model.nemo",
    }[kind]
    outcome = second_phase(gloo_pool, tiny_data, tmp_path, init_from, steps=0)
    assert outcome.code == 0, outcome.message
    (started,) = gloo_pool.run(1, nemo_logits, str(tmp_path / "second" / "model.nemo"), TOKENS)
    (ended,) = gloo_pool.run(1, nemo_logits, str(first_phase / "model.nemo"), TOKENS)
    np.testing.assert_allclose(started, ended, atol=1e-6)
    assert np.abs(ended).max() > 0.1


@pytest.mark.parametrize("kind", ["converted", "Hugging Face"])
def test_no_full_state_in_a_model_of_weights(
    kind: str, first_phase: Path, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Nor in a mean, which is what tools.convert writes."""
    convert(first_phase, tmp_path / "weights", "torch_dist" if kind == "converted" else "hf")
    outcome = second_phase(gloo_pool, tiny_data, tmp_path, tmp_path / "weights", "full")
    assert (outcome.code, outcome.message) == (
        2,
        f"init_from_state=full: {tmp_path / 'weights'} holds weights only; name a checkpoint that a run has "
        "saved, or leave init_from_state out",
    )
    assert not (tmp_path / "second" / "config.yaml").exists()


def adam_steps(checkpoint: Path) -> set[int]:
    """Adam's counts of steps, as the checkpoint keeps them per parameter group."""
    groups = torch.load(checkpoint / "common.pt", weights_only=True)["optimizer"]["optimizer"]["param_groups"]
    return {group["step"] for group in groups}


@pytest.mark.slow
def test_full_state(first_phase: Path, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    weights = second_phase(gloo_pool, tiny_data, tmp_path / "weights", first_phase)
    full = second_phase(gloo_pool, tiny_data, tmp_path / "full", first_phase, "full")
    assert weights.code == full.code == 0
    # The first step sees the same weights and the same samples; its update also the old moments.
    assert full.losses[1] == pytest.approx(weights.losses[1], rel=1e-6)
    assert full.losses[3] != pytest.approx(weights.losses[3], rel=1e-4)
    name = Path("second", "checkpoints", "step_00000003")
    assert adam_steps(tmp_path / "weights" / name) == {3}
    assert adam_steps(tmp_path / "full" / name) == {13}
    assert {
        "event": "started",
        "step": 0,
        "from": str(first_phase / "checkpoints/step_00000010"),
    } in full.metrics


def test_a_resumed_phase_does_not_start_again(
    first_phase: Path, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    second_phase(gloo_pool, tiny_data, tmp_path, first_phase, "full", steps=2)
    resumed = second_phase(gloo_pool, tiny_data, tmp_path, first_phase, "full", steps=4)
    whole = second_phase(gloo_pool, tiny_data, tmp_path / "whole", first_phase, "full", steps=4)
    events = [record["event"] for record in resumed.metrics if "event" in record]
    assert events == ["started", "first_step", "resumed", "first_step"]
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-6)


def test_refused(first_phase: Path, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    missing = second_phase(gloo_pool, tiny_data, tmp_path, tmp_path / "none")
    assert missing.code == 2 and missing.message.startswith(f"init_from={tmp_path / 'none'}: does not exist")
    weights_only = second_phase(gloo_pool, tiny_data, tmp_path, first_phase / "model.nemo", "full")
    assert weights_only.code == 2 and "holds weights only" in weights_only.message
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    unfinished = second_phase(gloo_pool, tiny_data, tmp_path, empty)
    assert unfinished.code == 2 and "no finished checkpoint" in unfinished.message
    other = tiny_data.overrides(
        name="other", output_dir=str(tmp_path), init_from=str(first_phase), model__num_layers="2"
    )
    outcome = gloo_pool.run(1, run_case, other)[0]
    assert outcome.code == 2 and "does not fit the configured model" in outcome.message
