"""A sweep trains every run in a directory of its own, and continues each by the same command."""

from __future__ import annotations

from pathlib import Path

from recipes.run_directory import read_metrics
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import command_case, run_case


def losses(directory: Path) -> dict[int, float]:
    metrics = read_metrics(directory / "metrics.jsonl")
    return {record["step"]: record["loss"] for record in metrics if "loss" in record}


def test_a_sweep_of_two(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = {
        "output_dir": str(tmp_path),
        "trainer__max_steps": "3",
        "save_nemo": "false",
        "data__valid": "{}",
    }
    command = ["--multirun", *tiny_data.overrides(**settings), "optim.lr=1e-3,3e-3"]
    code, out, err = gloo_pool.run(1, command_case, command)[0]
    assert (code, err) == (0, ""), err
    first, second = tmp_path / "tiny-optim.lr=0.001", tmp_path / "tiny-optim.lr=0.003"
    assert sorted(tmp_path.iterdir()) == [first, second]
    alone = gloo_pool.run(1, run_case, [*tiny_data.overrides(**settings, name="alone"), "optim.lr=3e-3"])[0]
    assert losses(second) == alone.losses and len(alone.losses) == 3 and losses(first) != alone.losses
    code, out, _ = gloo_pool.run(1, command_case, command)[0]
    assert code == 0 and out.count(" is complete: 3 steps") == 2
    # Longer, and with another value: two runs go on, the third starts.
    code, out, _ = gloo_pool.run(
        1, command_case, [*command[:-1], "trainer.max_steps=4", "optim.lr=1e-3,3e-3,1e-2"]
    )[0]
    assert code == 0 and out.count("goes on with changed settings: trainer.max_steps 3 -> 4\n") == 2
    assert [max(losses(tmp_path / f"tiny-optim.lr={lr}")) for lr in (0.001, 0.003, 0.01)] == [4, 4, 4]
