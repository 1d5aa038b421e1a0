"""Killed between a validation's line in metrics.jsonl and its loss beside a checkpoint saved before it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.save.manifest import step_directory, write_manifest
from recipes.checkpoint.save.retention import VALIDATED_LATER, valid_loss_of
from recipes.run_directory import RunDirectory, read_metrics
from recipes.training.valid_loss import finish_validation
from tests.support.corpus import TinyData
from tests.support.forked import Forked
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


def settings(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    """Step 6, the last one, is one to save and, after that, to validate."""
    common = {
        "output_dir": str(output_dir), "save_nemo": "false", "trainer__max_steps": "6",
        "trainer__val_check_interval": "4", "trainer__checkpoint__every_n_steps": "2",
        "trainer__checkpoint__keep_last": "1", "trainer__checkpoint__keep_best": "1",
    }  # fmt: skip
    return data.overrides(**common | changes)


def validations(run: Path) -> dict[int, list[float]]:
    """The mean losses of each step's validations."""
    found: dict[int, list[float]] = {}
    for record in read_metrics(run / "metrics.jsonl"):
        if "valid.en.loss" in record:
            loss = (record["valid.en.loss"] + record["valid.hi.loss"]) / 2
            found.setdefault(record["step"], []).append(loss)
    return found


def kill_before_it_is_recorded() -> None:
    from recipes.training import valid_loss

    valid_loss.record_valid_loss = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def kill_once_it_is_recorded() -> None:
    from recipes.training.callbacks import checkpoints

    record = checkpoints.record_later

    def killed(*args: Any) -> None:
        record(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.record_later = killed  # type: ignore[assignment]


def killed(command: list[str], how: Callable[[], None]) -> None:
    process = Forked("recipes.pretrain", command, how)
    try:
        _, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL, err


@pytest.mark.parametrize("how", [kill_before_it_is_recorded, kill_once_it_is_recorded])
def test_of_the_last_step(
    how: Callable[[], None], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Nothing is left to train or to measure, and the last checkpoint is the best all the same."""
    command, run = settings(tiny_data, tmp_path), tmp_path / "tiny"
    killed(command, how)
    record = run / "checkpoints" / "step_00000006" / VALIDATED_LATER
    best = run / "checkpoints" / "best"
    measured = validations(run)
    assert set(measured) == {4, 6} and measured[6] < measured[4]
    assert record.exists() == (how is kill_once_it_is_recorded)
    assert best.readlink() == Path("step_00000004")
    (again,) = gloo_pool.run(1, run_case, command)
    assert again.code == 0 and " is complete: 6 steps" in again.stdout
    assert json.loads(record.read_text()) == {"valid_loss": measured[6][0]}
    assert best.readlink() == Path("step_00000006") and validations(run) == measured


@pytest.mark.slow
def test_of_a_validation_that_a_signal_had_interrupted(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Step 4 is saved on the signal; the next start validates it, and is killed; the third has its loss.

    A learning rate that ruins the model makes step 4 the best, which stays for that loss alone.
    """
    command, run = settings(tiny_data, tmp_path), tmp_path / "tiny"
    stopped = Forked("recipes.pretrain", command, terminate_in_validation)
    _, err = stopped.communicate(timeout=240)
    assert stopped.returncode == 3 and validations(run) == {}, err
    killed(command, kill_before_it_is_recorded)
    record = run / "checkpoints" / "step_00000004" / VALIDATED_LATER
    measured = validations(run)
    assert set(measured) == {4} and not record.exists()
    ruin = ["optim.lr=3", "optim.min_lr=3", "optim.clip_grad=0"]
    (third,) = gloo_pool.run(1, run_case, [*command, *ruin])
    assert third.code == 0 and validations(run)[4] == measured[4], "measured once"
    assert json.loads(record.read_text()) == {"valid_loss": measured[4][0]}
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best", "step_00000004", "step_00000006"]
    assert (run / "checkpoints" / "best").readlink() == Path("step_00000004")


def terminate_in_validation() -> None:
    from recipes.training.module import ParamGPT

    original: Any = ParamGPT.validation_step

    def terminated(self: Any, *args: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **named)

    ParamGPT.validation_step = terminated  # type: ignore[method-assign]


def validation(step: int, loss: float) -> dict[str, Any]:
    ema = {"valid.en.ema_loss": 9.0, "valid.en.bits_per_byte": 9.0}
    return {"step": step, "valid.en.loss": loss, "valid.hi.loss": loss + 1, **ema}


LOGGED = {"step": 4, "loss": 7.0}
TORN = '{"step": 4, "valid.en.loss": 1.0, "valid.hi'


@pytest.mark.parametrize(
    ("records", "loss"),
    [
        ([LOGGED, validation(4, 1.0)], 1.5),
        ([LOGGED, validation(4, 1.0), {"event": "resumed", "step": 4}, validation(4, 2.0)], 2.5),
        ([validation(2, 1.0), LOGGED, validation(6, 1.0)], None),
        # Of steps that were trained again, from an earlier checkpoint or without a spike's samples.
        ([LOGGED, validation(4, 1.0), {"event": "resumed", "step": 2}, LOGGED], None),
        ([LOGGED, validation(4, 1.0), {"event": "rolled_back", "step": 2}, LOGGED], None),
        ([LOGGED, validation(4, 1.0), {"event": "started", "step": 0}, LOGGED], None),
        ([LOGGED, TORN], None),
    ],
)
def test_which_validation_is_a_checkpoints(records: list[Any], loss: float | None, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create()
    checkpoint = step_directory(directory.checkpoints, 4)
    checkpoint.mkdir()
    write_manifest(checkpoint, step=4)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    directory.metrics_file.write_text("\n".join(lines))
    finish_validation(directory, checkpoint, keep_best=1)
    assert valid_loss_of(checkpoint) == loss
    assert (directory.checkpoints / "best").is_symlink() == (loss is not None)


def test_the_loss_of_the_save_stays(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create()
    checkpoint = step_directory(directory.checkpoints, 4)
    checkpoint.mkdir()
    write_manifest(checkpoint, step=4, valid_loss=3.0)
    directory.append_metrics(validation(4, 1.0))
    finish_validation(directory, checkpoint, keep_best=0)
    assert valid_loss_of(checkpoint) == 3.0 and not (checkpoint / VALIDATED_LATER).exists()
