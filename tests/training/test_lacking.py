"""A run stopped between its last step and its end: the same command makes the rest, and trains nothing."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recipes.run_directory import read_metrics
from recipes.training.faults import VARIABLE
from tests.support.corpus import TinyData
from tests.support.fault_cases import ends, start_ranks
from tests.support.forked import Forked
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case, start, wait_for_file
from tests.support.spy import ENGINE, spy

STOPPED = 3
MADE_AT_THE_END = ("valid.", "eval.")


def settings(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    benchmark = {
        "every_n_steps": "100",
        "table": "minibench",
        "minibench": str(data.directory / "corpus" / "benchmark"),
        "limit": "4",
        "max_batch_tokens": "256",
    }
    evaluation = {f"trainer__evaluation__{key}": value for key, value in benchmark.items()}
    return data.overrides(output_dir=str(output_dir), **{"trainer__max_steps": "5"} | evaluation | changes)


def figures(metrics: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Losses, and what is measured after the last step."""
    found: dict[int, dict[str, float]] = {}
    for record in metrics:
        kept = {key: value for key, value in record.items() if key.startswith((*MADE_AT_THE_END, "loss"))}
        found.setdefault(record["step"], {}).update(kept)
    return {step: kept for step, kept in found.items() if kept}


@pytest.fixture(scope="module")
def whole(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: Any) -> Outcome:
    (outcome,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path_factory.mktemp("whole")))
    last = figures(outcome.metrics)[5]
    assert all(any(key.startswith(prefix) for key in last) for prefix in MADE_AT_THE_END)
    return outcome


def steps_shown(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(("step ", "train "))]


def test_a_signal_in_the_last_step(
    whole: Outcome, tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, run = settings(tiny_data, tmp_path), tmp_path / "tiny"
    monkeypatch.setenv(VARIABLE, "terminate:step=5,once=1")
    process = start(command)
    out, err = process.communicate(timeout=240)
    assert process.returncode == STOPPED and "stopped by a signal at step 5 of 5" in out, err
    stopped = figures(read_metrics(run / "metrics.jsonl"))
    assert set(stopped[5]) == {"loss"} and not (run / "model.nemo").exists()
    process = start(command)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and err == ""
    (line,) = [line for line in out.splitlines() if line.startswith("finish ")]
    missing = "the final validation, the final benchmark, model.nemo, report.html"
    assert line == f"finish all 5 steps are trained; missing: {missing}"
    assert steps_shown(out) == [] and "done   5 steps" in out
    assert figures(read_metrics(run / "metrics.jsonl")) == figures(whole.metrics)
    assert "minibench_hi" in (run / "report.html").read_text()
    _is_complete(command)


def _is_complete(command: list[str]) -> None:
    (again,) = spy(["recipes.pretrain", *command])
    assert again.code == 0 and " is complete: 5 steps, " in again.out.splitlines()[-1]
    assert not again.imported & (ENGINE - {"torch"})


def test_killed_between_the_last_checkpoint_and_the_end(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """In its final validation. The benchmark comes before the checkpoint, and is not made twice."""
    keep_best = {"trainer__checkpoint__keep_best": "1", "trainer__val_check_interval": "10"}
    command = settings(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="5", **keep_best)
    (tmp_path / "begun").mkdir()
    process = Forked("recipes.pretrain", command, partial(stand_still_in_validation, tmp_path / "begun"))
    try:
        wait_for_file(tmp_path / "begun", lambda: process.poll() is None)
    finally:
        process.kill()
    run = tmp_path / "tiny"
    assert process.returncode == -signal.SIGKILL and (run / "checkpoints" / "step_00000005").is_dir()
    killed = figures(read_metrics(run / "metrics.jsonl"))[5]
    assert any(key.startswith("eval.") for key in killed) and not (run / "model.nemo").exists()
    (resumed,) = gloo_pool.run(1, run_case, command)
    assert resumed.code == 0 and steps_shown(resumed.stdout) == []
    assert "trained; missing: the final validation, model.nemo, report.html\n" in resumed.stdout
    assert "\neval " not in resumed.stdout and figures(resumed.metrics) == figures(whole.metrics)
    (best,) = [line for line in resumed.stdout.splitlines() if line.startswith("best ")]
    last = figures(whole.metrics)[5]
    loss = (last["valid.en.loss"] + last["valid.hi.loss"]) / 2
    assert best == f"best   step_00000005, validation loss {loss:.4f}"


def stand_still_in_validation(begun: Path) -> None:
    """Each batch of held-out text is announced, and never ends."""
    from recipes.training.module import ParamGPT

    def announced(*_: Any, **named: Any) -> None:
        (begun / "batch").touch()
        signal.pause()

    ParamGPT.validation_step = announced  # type: ignore[method-assign]


def test_a_signal_while_it_makes_up_for_it(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    command = settings(tiny_data, tmp_path)
    (first,) = ends(start_ranks(command, "terminate:step=5", size=1))
    assert first[0] == STOPPED
    second = Forked("recipes.pretrain", command, terminate_in_validation)
    out, err = second.communicate(timeout=240)
    assert second.returncode == STOPPED and "stopped by a signal at step 5 of 5" in out, err
    assert "\nvalid" not in out and "\neval" not in out
    (third,) = gloo_pool.run(1, run_case, command)
    assert third.code == 0 and figures(third.metrics) == figures(whole.metrics)


def terminate_in_validation() -> None:
    from recipes.training.module import ParamGPT

    original: Any = ParamGPT.validation_step

    def terminated(self: Any, *args: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **named)

    ParamGPT.validation_step = terminated  # type: ignore[method-assign]


@pytest.mark.parametrize("layout", ["dp2_overlapped", pytest.param("tp2_pp2", marks=pytest.mark.slow)])
def test_of_several_ranks(
    layout: str, whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """One of which is told; averages of the weights, and checkpoints on the node's own disk, besides."""
    size, parallel = LAYOUTS[layout]
    local = {"every_n_steps": "2", "directory": str(tmp_path / "local")}
    changes = {f"trainer__checkpoint__local__{key}": value for key, value in local.items()}
    changes |= {"trainer__ema__decay": "0.5"}
    command = [*settings(tiny_data, tmp_path, **changes), *parallel]
    ranks = ends(start_ranks(command, f"terminate:rank={size - 1},step=5", size))
    assert [code for code, _, _ in ranks] == [STOPPED] * size, ranks[0][2]
    metrics = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert not [key for record in metrics for key in record if key.startswith("valid.")]
    assert list((tmp_path / "local").rglob("*step_00000004*"))
    outcome = gloo_pool.run(size, run_case, command)[0]
    assert outcome.code == 0 and steps_shown(outcome.stdout) == []
    last, alone = figures(outcome.metrics)[5], figures(whole.metrics)[5]
    assert {key: value for key, value in last.items() if "ema" not in key} == pytest.approx(alone, rel=1e-4)
    assert [key for key in last if "ema_loss" in key]
    assert not list((tmp_path / "local").rglob("*step_*")), "a finished run needs them no more"


def test_only_the_report(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Written at once, without the engine."""
    command = settings(tiny_data, tmp_path)
    assert gloo_pool.run(1, run_case, command)[0].code == 0
    report = tmp_path / "tiny" / "report.html"
    report.unlink()
    _is_complete(command)
    assert "minibench_hi" in report.read_text()


def test_time_that_is_over_in_the_last_step(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """The run is complete, and measured as any other."""
    command = settings(tiny_data, tmp_path, trainer__max_steps="1", optim__lr_warmup_steps="0")
    (outcome,) = gloo_pool.run(1, slow_case, [*command, "trainer.max_time=00:00:01"])
    assert outcome.code == 0
    last = figures(outcome.metrics)[1]
    assert all(any(key.startswith(prefix) for key in last) for prefix in MADE_AT_THE_END)


def slow_case(overrides: list[str]) -> Outcome:
    from tests.support.fault_cases import faulty_case

    return faulty_case(overrides, "slow:step=1,seconds=1.5")
