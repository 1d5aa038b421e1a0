"""A resume from a step that is to be validated: once, whoever did it."""

from __future__ import annotations

from pathlib import Path

from recipes.run_directory import read_metrics_log
from tests.support.corpus import TinyData
from tests.support.fault_cases import ends, faulty_case, start_ranks
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


def settings(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    every = {"trainer__val_check_interval": "2", "trainer__checkpoint__every_n_steps": "2"}
    usual = {"output_dir": str(output_dir), "save_nemo": "false", "trainer__max_steps": "6"}
    return data.overrides(**usual | every | changes)


def validated_steps(output_dir: Path) -> list[int]:
    """With every validation that was ever made."""
    log = read_metrics_log(output_dir / "tiny" / "metrics.jsonl")
    return [record["step"] for record in log.appended if "valid.en.loss" in record]


def test_what_is_validated_is_not_validated_again(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The first step of the resume is one to validate, and the last, too."""
    whole = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path / "whole", trainer__max_steps="5"))[0]
    for steps in ("4", "5"):
        changes = {"trainer__max_steps": steps, "trainer__val_check_interval": "1"}
        (outcome,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, **changes))
        assert outcome.code == 0
    assert validated_steps(tmp_path) == [1, 2, 3, 4, 5]
    assert outcome.losses == whole.losses


def test_what_a_signal_has_left_out_is_made_up_for(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    command = settings(tiny_data, tmp_path)
    (stopped,) = ends(start_ranks(command, "terminate:step=4", size=1))
    assert stopped[0] == 3 and validated_steps(tmp_path) == [2]
    assert gloo_pool.run(1, run_case, command)[0].code == 0
    assert validated_steps(tmp_path) == [2, 4, 6]


def test_after_a_loss_spike(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Back to a step that is validated."""
    guards = {"loss_spike_zscore": "4", "loss_spike_window": "8"}
    changes = {f"trainer__guards__{key}": value for key, value in guards.items()}
    every = {"trainer__val_check_interval": "4", "trainer__checkpoint__every_n_steps": "4"}
    command = settings(tiny_data, tmp_path, optim__lr="3e-3", trainer__max_steps="16", **changes | every)
    (outcome,) = gloo_pool.run(1, faulty_case, command, "corrupted_samples:sample=112,last=119")
    assert outcome.code == 0 and "back to step_00000012" in outcome.stderr
    assert validated_steps(tmp_path) == [4, 8, 12, 16]
