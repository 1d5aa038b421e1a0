"""A run in phases, stopped and resumed in every place that matters, and under other layouts."""

from __future__ import annotations

import signal
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.open import open_stored_model
from recipes.run_directory import read_metrics_log
from tests.support.corpus import TinyData
from tests.support.fault_cases import ends, start_ranks
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

# Three steps of 4 samples and two of 8, three of 4, then steps of 8 that are longer, at a rate of their own.
PHASES = (
    "[{until_step:5,rampup_batch_size:[4,4,12],train:{en:{}}},"
    "{until_tokens:1.2e3,global_batch_size:4,train:{en:{},hi:{}}},"
    "{name:end,global_batch_size:8,seq_length:48,rotary_base:50000,lr:3e-3,lr_warmup_steps:2,lr_decay_steps:9,min_lr:1e-4,"
    "lr_decay_style:linear,train:{hi:{}}}]"
)
STEPS = 11


def settings(data: TinyData, output_dir: Path, steps: int, *more: str) -> list[str]:
    sources = f"{{en:{{path:{data.prefix('train_en')}}},hi:{{path:{data.prefix('train_hi')}}}}}"
    overrides = data.overrides(
        output_dir=str(output_dir),
        save_nemo="false",
        data__train=sources,
        phases=PHASES,
        trainer__max_steps=str(steps),
        trainer__micro_batch_size="2",
        optim__lr_decay_style="constant",
        optim__lr_decay_steps="null",
    )
    return [*overrides, *more]


def run(pool: GlooPool, overrides: list[str], ranks: int = 1) -> Outcome:
    outcome: Outcome = pool.run(ranks, run_case, overrides)[0]
    assert outcome.code == 0, outcome.message
    return outcome


@pytest.fixture(scope="module")
def whole_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(gloo_pool: GlooPool, tiny_data: TinyData, whole_directory: Path) -> Outcome:
    return run(gloo_pool, settings(tiny_data, whole_directory, STEPS))


def logged(outcome: Outcome, key: str) -> list[float]:
    return [record[key] for record in outcome.metrics if "loss" in record]


def test_steps_of_every_phase(whole: Outcome) -> None:
    batches, lengths = [4, 4, 4, 8, 8, 4, 4, 4, 8, 8, 8], [32] * 8 + [48] * 3
    assert logged(whole, "global_batch_size") == batches and logged(whole, "seq_length") == lengths
    assert logged(whole, "phase") == [0] * 5 + [1] * 3 + ["end"] * 3
    consumed = [*accumulate(batches)]
    assert logged(whole, "consumed_samples") == consumed
    tokens = [batch * length for batch, length in zip(batches, lengths, strict=True)]
    assert logged(whole, "consumed_tokens") == [*accumulate(tokens)]
    peak, before = 3e-3, 1e-3
    rates = [before, (before + peak) / 2, peak]
    assert logged(whole, "lr")[2:8] == [before] * 6
    assert logged(whole, "lr")[8:] == pytest.approx(rates)
    assert "phase  1 from step 6, 896 tokens: batches of 4 x 32 tokens" in whole.stdout
    assert "phase  end from step 9" in whole.stdout and "from step 1," not in whole.stdout


@pytest.mark.slow
def test_resuming_inside_a_phase_and_on_a_border(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Also where the batch grows, and amid a warm-up."""
    for steps in (2, 3, 5, 7, 8, 9, STEPS):
        outcome = run(gloo_pool, settings(tiny_data, tmp_path, steps, "trainer.checkpoint.keep_last=1"))
    assert outcome.losses == whole.losses


@pytest.mark.slow
def test_kill_9_in_every_phase(
    whole: Outcome, whole_directory: Path, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Saved at steps 3, 6 and 9. Killed right before 6, 9 and 11, it trains again: the batch's growth and the
    border to phase 1; a blend's middle and the border to longer samples; a warm-up's second step.
    """
    overrides = settings(tiny_data, tmp_path, STEPS, "trainer.checkpoint.every_n_steps=3")
    for step in (6, 9, 11):
        ((code, _, err),) = ends(start_ranks(overrides, f"kill:step={step}", size=1), timeout=240)
        assert code == -signal.SIGKILL, err
    resumed = run(gloo_pool, overrides)
    assert resumed.losses == whole.losses
    appended = read_metrics_log(tmp_path / "tiny" / "metrics.jsonl").appended
    steps = [record["step"] for record in appended if "loss" in record]
    assert steps == [*range(1, 6), *range(4, 9), *range(7, 11), *range(10, 12)]
    expected = {record["step"]: record for record in whole.metrics if "loss" in record}
    exact = ("loss", "lr", "grad_norm", "phase", "global_batch_size", "seq_length", "consumed_samples")
    for record in appended:
        if "loss" in record:
            assert [record[key] for key in exact] == [expected[record["step"]][key] for key in exact]
    # 28 samples of English alone, 12 of both, then 24 of Hindi alone.
    assert blend(tmp_path)["reached_counts"] == {"en": 34, "hi": 30}
    assert blend(tmp_path) == blend(whole_directory)


def blend(output_dir: Path) -> dict[str, Any]:
    """Of the last checkpoint."""
    checkpoint = output_dir / "tiny" / "checkpoints" / f"step_{STEPS:08d}"
    found: dict[str, Any] = load_plain(checkpoint / "common.pt")["recipes"]["blend"]
    return found


@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        (2, ["parallel.tensor_model_parallel_size=2"]),
        pytest.param(2, ["parallel.pipeline_model_parallel_size=2"], marks=pytest.mark.slow),
        pytest.param(2, [], marks=pytest.mark.slow),
    ],
)
def test_layouts(
    ranks: int, layout: list[str], whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The same samples, and the same losses to rounding."""
    found = run(gloo_pool, settings(tiny_data, tmp_path, STEPS, *layout), ranks)
    assert logged(found, "consumed_samples") == logged(whole, "consumed_samples")
    assert found.losses == pytest.approx(whole.losses, rel=1e-4)


def test_files_hold_the_model_of_their_phase(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Also on a border, where the next phase has not begun."""
    every = "trainer.checkpoint.every_n_steps=1", "trainer.checkpoint.keep_last=99"
    run(gloo_pool, settings(tiny_data, tmp_path, 9, *every, "save_nemo=true"))
    directory = tmp_path / "tiny"
    bases = {}
    for step in (1, 8, 9):
        path = directory / "checkpoints" / f"step_{step:08d}"
        bases[step] = load_plain(path / "common.pt")["recipes"]["model"]["rotary_base"]
    assert bases == {1: 10_000, 8: 10_000, 9: 50_000}
    with open_stored_model(directory / "model.nemo") as model:
        assert model.model.rotary_base == 50_000
    other = settings(tiny_data, tmp_path, STEPS, *every)
    other = [setting.replace("rotary_base:50000", "rotary_base:70000") for setting in other]
    refused = gloo_pool.run(1, run_case, other)[0]
    assert refused.code == 2 and "rotary_base=70000: the run being resumed used 50000" in refused.message
    longer = [each.replace("until_step:5", "until_step:6") for each in other]
    refused = gloo_pool.run(1, run_case, longer)[0]
    had = "4 x 32, 8 x 32 from step 4, 4 x 32 from step 6"  # Counted from 1, as everywhere.
    assert refused.code == 2 and f" of the run being resumed had {had}, " in refused.message, refused.message


def test_other_phases_from_a_restart_on(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """By the new list another source had been read from step 4 on; but what was read is what counts."""

    def with_phases(steps: int, phases: str) -> list[str]:
        return [
            f"phases={phases}" if setting.startswith("phases=") else setting
            for setting in settings(tiny_data, tmp_path, steps)
        ]

    run(gloo_pool, with_phases(5, "[{until_step:7,train:{en:{}}},{train:{hi:{}}}]"))
    resumed = run(
        gloo_pool, with_phases(8, "[{until_step:3,train:{en:{}}},{train:{en:{},hi:{weight:3}},lr:1e-4}]")
    )
    lines = resumed.stdout.splitlines()
    for line in (
        f"{tmp_path}/tiny goes on with 5 changed settings:",
        "       phases.0.until_step 7 -> 3",
        "       phases.1.train.hi.weight 1.0 -> 3.0",
        "       phases.1.train.en null -> {loss_weight: null, tokens: null, weight: 1.0}",
        "       phases.1.lr null -> 0.0001",
        "       trainer.max_steps 5 -> 8",
        "blend  from sample 40 on, 32 tokens each:",
        "       en 25.00 % (before: 100.00 %), after 40 samples of it",
        "       hi 75.00 % (before: 0.00 %), from its beginning",
    ):
        assert line in lines, resumed.stdout
    checkpoint = tmp_path / "tiny" / "checkpoints" / "step_00000008"
    blend = load_plain(checkpoint / "common.pt")["recipes"]["blend"]
    assert (blend["start"], blend["counts"]) == (40, {"en": 40})
    assert blend["reached_counts"] == {"en": 46, "hi": 18}
