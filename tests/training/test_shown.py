"""What a run prints: at once what it is, then how far it is."""

from __future__ import annotations

import re
from pathlib import Path

from recipes.config.hydra_app import compose
from recipes.plan.opening import opening
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import shown_case


def test_a_run_says_what_it_is_and_how_far(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = tiny_data.overrides(output_dir=str(tmp_path), save_nemo="false", trainer__max_steps="3")
    settings += ["trainer.val_check_interval=2"]
    (outcome,) = gloo_pool.run(1, shown_case, settings)
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    words = [line.split()[0] for line in lines]
    assert words[:7] == ["run", "model", "batch", "layout", "load", "device", "train"]
    assert lines[:4] == opening(compose("pretrain", settings), 1)
    assert str(tmp_path / "tiny") in lines[0] and "tokens per step (8 x 32), 3 steps, 768 tokens" in lines[2]
    kernels = "attention by SDPA, norms and products by PyTorch, cross entropy in blocks of rows"
    assert re.fullmatch(rf"device CPU, \d+ threads?, fp32, {kernels}", lines[5])
    steps = [line for line in lines if line.startswith("step ")]
    assert [" left" in line for line in steps] == [False, True, True] and steps[-1].endswith("  0s left")
    figures = r"768 tokens  loss +[\d.]+  lr \S+  grad norm +[\d.]+  [\d,]+ tokens/s  [\d.]+ GiB"
    assert re.fullmatch(rf"step +3/3  {figures}  0s left", steps[-1])
    last = [record for record in outcome.metrics if "loss" in record][-1]
    assert last["tokens_per_second_per_device"] == last["tokens_per_second"] and last["memory_bytes"] > 2**20
    assert len(re.findall(r"^validation: \d+/\d+ \(", outcome.stderr, re.MULTILINE)) >= 2


def test_the_layout_is_that_of_the_launched_processes() -> None:
    settings = ["name=x", "model=tiny", "data.seq_length=128", "trainer.max_steps=10", "parallel=tp2_pp2"]
    *_, layout = opening(compose("pretrain", settings), 8)
    assert layout == "layout 8 processes: tensor 2 x pipeline 2 x data 2"


def test_a_resumed_run_shows_that_its_checkpoint_is_read(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = tiny_data.overrides(output_dir=str(tmp_path), save_nemo="false", trainer__max_steps="2")
    gloo_pool.run(1, shown_case, settings)
    settings = tiny_data.overrides(output_dir=str(tmp_path), save_nemo="false", trainer__max_steps="4")
    (outcome,) = gloo_pool.run(1, shown_case, settings)
    assert re.search(r"^checking step_00000002: .*\(100%\)", outcome.stderr, re.MULTILINE)
    assert "\ntrain  from step 2\n" in outcome.stdout
