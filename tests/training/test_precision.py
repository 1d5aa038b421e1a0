"""fp16 with its loss scale, gradients added up in bf16, and determinism, in whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.save.manifest import verify
from tests.support.corpus import TinyData
from tests.support.fault_cases import faulty_case
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

GUARD = 4


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {"output_dir": str(output_dir), "save_nemo": "false", "data__valid": "{}"}
    settings |= {"trainer__max_steps": "8", "optim__lr": "3e-3", "trainer__precision": "fp16"}
    return data.overrides(**(settings | changes))


def run(pool: GlooPool, settings: list[str], layout: str = "single") -> Outcome:
    size, parallel = LAYOUTS[layout] if layout != "single" else (1, [])
    outcome: Outcome = pool.run(size, run_case, [*settings, *parallel])[0]
    assert outcome.code == 0, outcome.message
    return outcome


def events(outcome: Outcome) -> list[dict[str, Any]]:
    return [record for record in outcome.metrics if record.get("event") == "loss_scale"]


def checkpoint(output_dir: Path, step: int) -> Path:
    return output_dir / "tiny" / "checkpoints" / f"step_{step:08d}"


@pytest.mark.slow
def test_fp16_finds_its_scale_and_resumes_exactly(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """From far above: the first steps overflow, each halves the scale."""
    scale = {"trainer__fp16__initial_loss_scale": "262144", "trainer__fp16__hysteresis": "1"}
    scale |= {"trainer__fp16__loss_scale_window": "2", "trainer__max_steps": "14"}
    whole = run(gloo_pool, overrides(tiny_data, tmp_path / "whole", **scale), "dp2")
    overflows = events(whole)
    assert overflows and [each["step"] for each in overflows[:2]] == [1, 2]
    assert all(each["loss_scale"] == each["before"] / 2 for each in overflows)
    assert "step 1 overflows in fp16 and is skipped; loss scale 131,072 instead of 262,144" in whole.stdout
    scales = {record["step"]: record["loss_scale"] for record in whole.metrics if "loss" in record}
    assert len(set(scales.values())) > 1, "it also doubles"
    assert not [record for record in whole.metrics if record.get("event") == "skipped_step"]
    assert whole.losses[max(whole.losses)] < whole.losses[min(whole.losses)] - 0.2

    halves = overrides(tiny_data, tmp_path, **scale)
    run(gloo_pool, [*halves, "trainer.max_steps=7"], "dp2")
    assert _scaler(load_plain(checkpoint(tmp_path, 7) / "common.pt"))["scale"].device.type == "cpu"
    resumed = run(gloo_pool, halves, "dp2")
    assert resumed.losses == whole.losses and events(resumed) == overflows


def test_the_log_says_what_the_search_for_the_scale_costs(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """As in megatron-core, the first overflow moves nothing. None of them is a failure that guards count."""
    one_is_too_many = {"trainer__max_steps": "6", "trainer__guards__max_skipped_steps": "1"}
    settings = overrides(tiny_data, tmp_path, trainer__fp16__initial_loss_scale="16", **one_is_too_many)
    (outcome,) = gloo_pool.run(1, faulty_case, settings, "nan:step=2,until=4")
    assert outcome.code == 0
    assert [line for line in outcome.stdout.splitlines() if line.startswith("scale ")] == [
        "scale  step 2 overflows in fp16 and is skipped; loss scale 16, as before",
        "scale  step 3 overflows in fp16 and is skipped; loss scale 8 instead of 16",
        "scale  step 4 overflows in fp16 and is skipped; loss scale 4 instead of 8",
        "scale  step 5 fits into fp16 with loss scale 4, after 3 skipped steps; 1 of 6 are left",
    ]
    assert "\ndone   6 steps, 3 of them skipped, in " in outcome.stdout


def _scaler(state: Any) -> dict[str, Any]:
    if isinstance(state, dict):
        if "grad_scaler" in state:
            return dict(state["grad_scaler"])
        for part in state.values():
            if found := _scaler(part):
                return found
    return {}


def test_fp16_follows_fp32(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    low = {"trainer__fp16__initial_loss_scale": "16"}
    half = run(gloo_pool, overrides(tiny_data, tmp_path / "fp16", **low)).losses
    single = run(gloo_pool, overrides(tiny_data, tmp_path / "fp32", trainer__precision="fp32")).losses
    split = run(gloo_pool, overrides(tiny_data, tmp_path / "tp2", **low), "tp2_sp").losses
    assert [*half] == [*single] == [*split]
    assert [*half.values()] == pytest.approx([*single.values()], rel=0.01)
    assert [*split.values()] == pytest.approx([*single.values()], rel=0.01)


def test_overflows_at_the_smallest_scale_end_the_run(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    scale = {"trainer__fp16__initial_loss_scale": "2", "trainer__fp16__hysteresis": "1"}
    settings = overrides(tiny_data, tmp_path, **scale, trainer__guards__max_skipped_steps="2")
    (outcome,) = gloo_pool.run(1, faulty_case, settings, "nan:step=3,until=8")
    assert outcome.code == GUARD
    assert [each["step"] for each in events(outcome)] == [3, 4, 5]
    assert (
        "stopped by a guard: step 5: gradients overflow with trainer.fp16.min_loss_scale=1" in outcome.stderr
    )


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_gradients_added_up_in_bf16(
    optimizer: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    changes = {"optim": optimizer, "model__share_embeddings_and_output_weights": "false"}
    changes |= {"trainer__precision": "bf16", "optim__lr": "3e-3"}
    wide = run(gloo_pool, overrides(tiny_data, tmp_path / "fp32", **changes), "dp2").losses
    narrow = run(
        gloo_pool,
        overrides(tiny_data, tmp_path / "bf16", **changes, trainer__grad_reduce_in_fp32="false"),
        "dp2",
    ).losses
    assert narrow != wide and [*narrow.values()] == pytest.approx([*wide.values()], rel=0.02)


def test_bf16_gradients_of_fp32_weights_are_refused(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__precision="auto", trainer__grad_reduce_in_fp32="false")
    (outcome,) = gloo_pool.run(1, run_case, settings)
    assert outcome.code == 2
    assert outcome.message.startswith("trainer.grad_reduce_in_fp32=false: would be ignored: weights are fp32")


DETERMINISTIC = {
    "dropout": {"trainer__precision": "bf16", "model__hidden_dropout": "0.1"},
    "experts": {"model": "tiny_param_moe", "trainer__precision": "fp32"},
}


@pytest.mark.parametrize("kind", ["dropout", pytest.param("experts", marks=pytest.mark.slow)])
def test_deterministic_runs_are_equal_to_the_bit(
    kind: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """And what they compute is what others do."""
    changes = DETERMINISTIC[kind] | {"trainer__max_steps": "3"}
    first, second, without = (
        overrides(tiny_data, tmp_path / name, **changes, trainer__deterministic=str(name != "without"))
        for name in ("first", "second", "without")
    )
    losses = [run(gloo_pool, settings, "dp2").losses for settings in (first, second, without)]
    assert losses[0] == losses[1]
    assert [*losses[0].values()] == pytest.approx([*losses[2].values()], rel=1e-3)
    files = [verify(checkpoint(tmp_path / name, 3))["files"] for name in ("first", "second")]
    shards = [{name: file["sha256"] for name, file in each.items() if "distcp" in name} for each in files]
    assert shards[0] == shards[1] and shards[0]
    assert gloo_pool.run(1, _is_deterministic) == [False], "the last run has turned it off"


def _is_deterministic() -> bool:
    return torch.are_deterministic_algorithms_enabled()


def unrepeatable_case(settings: list[str]) -> Outcome:
    """A run in which one rank's losses change from one time to the next."""
    import os

    from recipes.model import gpt

    true_losses, calls = gpt.vocab_parallel_cross_entropy, []

    def losses(*args: Any, **named: Any) -> Any:
        calls.append(1)
        return true_losses(*args, **named) * (1 + (len(calls) * 1e-3 if os.environ["RANK"] == "1" else 0))

    gpt.vocab_parallel_cross_entropy = losses  # type: ignore[assignment]
    try:
        return run_case(settings)
    finally:
        gpt.vocab_parallel_cross_entropy = true_losses


def test_what_is_not_deterministic_is_found(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__precision="fp32", trainer__deterministic="true")
    outcomes = gloo_pool.run(2, unrepeatable_case, settings)
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert outcomes[0].message.startswith("trainer.deterministic=true: the first step's gradients, computed")
