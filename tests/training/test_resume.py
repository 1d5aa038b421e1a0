"""Runs as a user starts them: killed, signalled, out of time, and continued by the same command."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.checkpoint.save.manifest import MANIFEST, finished_checkpoints, verify, write_manifest
from recipes.checkpoint.save.retention import VALID_LOSS
from recipes.run_directory import read_metrics
from tests.support.corpus import TinyData
from tests.support.forked import Forked
from tests.support.pool import GlooPool
from tests.support.privileges import run_bound
from tests.support.run_cases import (
    Outcome,
    announce_validation,
    kill_at_step,
    run_case,
    signalled_case,
    start,
    wait_for_file,
    wait_for_step,
)
from tests.support.spy import ENGINE, spy

SAVED_AND_STOPPED, GUARD = 3, 4
RECORD_KEYS = {
    "step",
    "consumed_samples",
    "consumed_tokens",
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "tokens_per_second_per_device",
    "mfu",
    "memory_bytes",
    "elapsed_s",
}


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {"output_dir": str(output_dir), "save_nemo": "false"} | changes
    return data.overrides(**settings)


def run(pool: GlooPool, settings: list[str]) -> Outcome:
    return pool.run(1, run_case, settings)[0]


def checkpoint_steps(output_dir: Path) -> list[int]:
    return [verify(path)["step"] for path in finished_checkpoints(output_dir / "tiny" / "checkpoints")]


@pytest.fixture(scope="module")
def whole(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: Any) -> Outcome:
    """40 steps in one go."""
    settings = overrides(tiny_data, tmp_path_factory.mktemp("whole"), trainer__max_steps="40")
    return run(gloo_pool, settings)


def test_metrics_contract(whole: Outcome) -> None:
    training = [record for record in whole.metrics if "loss" in record]
    assert [record["step"] for record in training] == list(range(1, 41))
    for record in training:
        assert set(record) == RECORD_KEYS
        assert record["consumed_samples"] == 8 * record["step"]
        assert record["consumed_tokens"] == 8 * 32 * record["step"]
        assert record["tokens_per_second"] > 0 and record["grad_norm"] > 0 and record["mfu"] is None
    elapsed = [record["elapsed_s"] for record in whole.metrics if "elapsed_s" in record]
    assert elapsed == sorted(elapsed)
    # The schedule written out: linear warm-up over 2 steps, cosine to 0 at step 20.
    (valid,) = [record for record in whole.metrics if "valid.en.loss" in record]
    assert set(valid) == {"step", "elapsed_s"} | {
        f"valid.{name}.{key}" for name in ("en", "hi") for key in ("loss", "bits_per_byte")
    }
    assert valid["step"] == 40 and training[-1]["loss"] < training[0]["loss"] - 0.5


@pytest.mark.parametrize("dropout", ["0.0", pytest.param("0.1", marks=pytest.mark.slow)])
def test_kill_9_then_the_same_command(
    dropout: str, whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    changes = {
        "trainer__max_steps": "40",
        "model__hidden_dropout": dropout,
        "model__attention_dropout": dropout,
    }
    if dropout != "0.0":
        undisturbed = run(gloo_pool, overrides(tiny_data, tmp_path / "whole", **changes))
        assert undisturbed.losses != whole.losses
    else:
        undisturbed = whole
    settings = overrides(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="7", **changes)
    process = Forked("recipes.pretrain", settings)
    code, out, _ = kill_at_step(process, tmp_path / "tiny" / "metrics.jsonl", 17)
    assert code == -signal.SIGKILL and "stopped" not in out
    saved = checkpoint_steps(tmp_path)
    assert saved and saved[-1] in (14, 21, 28, 35)
    resumed = run(gloo_pool, settings)
    assert resumed.code == 0 and f"step {saved[-1]}" in resumed.stdout
    assert resumed.losses == undisturbed.losses and len(resumed.losses) == 40


def test_sigterm_saves_and_leaves_with_3(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="2000", optim__lr_decay_steps="20")
    metrics_file = tmp_path / "tiny" / "metrics.jsonl"
    code, out, err = kill_at_step(start(settings), metrics_file, 10, signal.SIGTERM)
    assert code == SAVED_AND_STOPPED, err
    assert err == ""
    metrics = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert not [record for record in metrics if "valid.en.loss" in record], "no validation in between"
    (stopped,) = checkpoint_steps(tmp_path)
    assert 10 <= stopped < 2000 and metrics[-1]["step"] == stopped
    assert f"stopped by a signal at step {stopped}" in out and "signal SIGTERM: stopping" in out
    # To the end of the undisturbed run, where that is not passed already.
    steps = max(40, stopped + 5)
    resumed = run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps=str(steps)))
    assert {"event": "resumed", "step": stopped, "checkpoint": f"step_{stopped:08d}"} in resumed.metrics
    assert {step: loss for step, loss in resumed.losses.items() if step <= 40} == whole.losses


def long_validation(data: TinyData) -> dict[str, str]:
    """Held-out sets that take minutes."""
    sets = ",".join(f"set{number}:{data.prefix('train_en')}" for number in range(40))
    return {"data__valid": f"{{{sets}}}", "trainer__limit_val_batches": "null"}


@pytest.mark.parametrize("last_step", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_signal_ends_a_validation_too(
    last_step: bool, whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """That of an interval, which a checkpoint waits for, and that after the last step."""
    every = {
        "trainer__val_check_interval": "4",
        "trainer__checkpoint__every_n_steps": "4",
        "trainer__checkpoint__keep_best": "1",
    }
    changes = {"trainer__max_steps": "4" if last_step else "8"} | ({} if last_step else every)
    settings = overrides(tiny_data, tmp_path, **changes, **long_validation(tiny_data))
    (tmp_path / "begun").mkdir()
    announce = partial(announce_validation, tmp_path / "begun" / "batches")
    process = Forked("recipes.pretrain", settings, announce)
    try:
        wait_for_file(tmp_path / "begun", lambda: process.poll() is None)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert (process.returncode, err) == (SAVED_AND_STOPPED, "")
    assert "stopped by a signal at step 4 of" in out and "\nvalid" not in out and "\nbest" not in out
    assert checkpoint_steps(tmp_path) == [4]
    (checkpoint,) = finished_checkpoints(tmp_path / "tiny" / "checkpoints")
    assert VALID_LOSS not in verify(checkpoint)
    metrics = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert [record["step"] for record in metrics if "loss" in record] == [1, 2, 3, 4]
    # The same command, but for the patience that a test has not.
    resumed = run(gloo_pool, overrides(tiny_data, tmp_path, **changes | {"trainer__max_steps": "8"}))
    assert resumed.code == 0
    if not last_step:
        made_up = next(each for each in resumed.metrics if each["step"] == 4 and "valid.en.loss" in each)
        loss = (made_up["valid.en.loss"] + made_up["valid.hi.loss"]) / 2
        assert f"best   step_00000004, validation loss {loss:.4f}" in resumed.stdout
    assert resumed.losses == {step: whole.losses[step] for step in range(1, 9)}


@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_ends_the_validation_of_both(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    changes = {"trainer__max_steps": "8", "trainer__val_check_interval": "4"}
    settings = overrides(tiny_data, tmp_path, **changes, **long_validation(tiny_data))
    outcomes = gloo_pool.run(2, signalled_case, settings, 4, int(signal.SIGTERM), 1, 1, 1.0)
    assert [outcome.code for outcome in outcomes] == [SAVED_AND_STOPPED] * 2
    assert [record["step"] for record in outcomes[0].metrics if "loss" in record] == [1, 2, 3, 4]
    assert checkpoint_steps(tmp_path) == [4]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_twice_is_a_signal_once(
    number: int, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="3000", optim__lr_decay_steps="20")
    (outcome,) = gloo_pool.run(1, signalled_case, settings, 5, int(number), 3)
    assert outcome.code == SAVED_AND_STOPPED
    assert outcome.stdout.count("stopping after this step") == 1
    assert len(checkpoint_steps(tmp_path)) == 1
    assert not (tmp_path / "tiny" / "model.nemo").exists()


@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_stops_both(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="3000", optim__lr_decay_steps="20")
    outcomes = gloo_pool.run(2, signalled_case, settings, 5, int(signal.SIGTERM), 1, 1)
    assert [outcome.code for outcome in outcomes] == [SAVED_AND_STOPPED] * 2
    (stopped,) = checkpoint_steps(tmp_path)
    resumed = run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps=str(max(40, stopped + 5))))
    losses = {step: loss for step, loss in resumed.losses.items() if step <= 40}
    assert losses == pytest.approx(whole.losses, rel=1e-4)


def test_max_time_stops_as_a_signal_does_and_goes_on_later(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    changes = {"save_nemo": "true", "trainer__max_steps": "100000", "optim__lr_decay_steps": "20"}
    outcome = run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_time="00:00:01", **changes))
    assert outcome.code == SAVED_AND_STOPPED
    (stopped,) = checkpoint_steps(tmp_path)
    assert 0 < stopped < 100000 and outcome.metrics[-1]["step"] == stopped
    assert f"time limit at step {stopped} of 100,000; the same command continues from there" in outcome.stdout
    nemo = tmp_path / "tiny" / "model.nemo"
    assert "done" not in outcome.stdout and not nemo.exists()
    later = run(
        gloo_pool, overrides(tiny_data, tmp_path, **changes | {"trainer__max_steps": str(stopped + 10)})
    )
    assert later.code == 0 and later.metrics[-1]["step"] == stopped + 10
    losses = {step: loss for step, loss in later.losses.items() if step <= 40}
    assert losses == {step: loss for step, loss in whole.losses.items() if step in losses}
    # A model file of another step than the last does not count as the finished run's.
    first = nemo.read_bytes()
    more = run(
        gloo_pool, overrides(tiny_data, tmp_path, **changes | {"trainer__max_steps": str(stopped + 12)})
    )
    assert more.code == 0 and nemo.read_bytes() != first
    nemo.write_bytes(first)
    again = run(
        gloo_pool, overrides(tiny_data, tmp_path, **changes | {"trainer__max_steps": str(stopped + 12)})
    )
    assert "is complete" not in again.stdout and nemo.read_bytes() != first


def test_max_time_reached_at_the_last_step_is_the_end(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The limit is over before the first step ends, and that step is the last."""
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="1", save_nemo="true")
    outcome = run(gloo_pool, [*settings, "trainer.max_time=00:00:01", "optim.lr_warmup_steps=0"])
    assert outcome.code == 0 and (tmp_path / "tiny" / "model.nemo").exists()


def test_max_tokens(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """1,000 tokens are 3.9 steps of 256: the fourth is the last. The schedule ends there too."""
    settings = overrides(tiny_data, tmp_path, trainer__max_tokens="1000", trainer__max_steps="null")
    settings = [*settings, "optim.lr_decay_steps=null", "optim.min_lr=0"]
    outcome = run(gloo_pool, settings)
    assert list(outcome.losses) == [1, 2, 3, 4] and checkpoint_steps(tmp_path) == [4]


def test_a_finished_run_is_complete_at_once(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="3", save_nemo="true")
    assert run(gloo_pool, settings).code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    (done,) = spy(["recipes.pretrain", *settings])
    assert done.code == 0 and done.out.count("\n") == 1 and "is complete: 3 steps" in done.out
    assert done.err == "" and not done.imported & (ENGINE - {"torch"}), "the checkpoint is read, no more"
    other, logs = spy(
        ["recipes.pretrain", *settings, "optim.lr=1e-2"],
        ["recipes.pretrain", *settings, "trainer.log_every_n_steps=2"],
    )
    assert other.code == 2 and other.out == "" and "optim.lr 0.001 -> 0.01; set name=" in other.err
    assert logs.code == 0 and logs.out.endswith("; not run again for trainer.log_every_n_steps 1 -> 2\n")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_refused_resume_leaves_everything_as_it_was(
    goes_on: bool, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Where steps are left as on a finished run, of which nothing would be trained."""
    assert run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps="2")).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    steps = {"trainer__max_steps": "4" if goes_on else "2"}
    for key, value, used in [
        ("seed", "7", "1234"),
        ("data.seq_length", "16", "32"),
        ("trainer.global_batch_size", "4", "8"),
        ("model.num_layers", "2", "4"),
    ]:
        changes = steps | {key.replace(".", "__"): value}
        outcome = run(gloo_pool, overrides(tiny_data, tmp_path, **changes))
        assert outcome.code == 2 and outcome.stdout == ""
        assert outcome.message.startswith(f"{key}={value}: the run being resumed used {used}; keep it")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_from_before_the_seed_was_kept(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    assert run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps="2")).code == 0
    (checkpoint,) = finished_checkpoints(tmp_path / "tiny" / "checkpoints")
    state = torch.load(checkpoint / "common.pt", weights_only=True)
    assert state["recipes"].pop("seed") == 1234
    torch.save(state, checkpoint / "common.pt")
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint, step=2)
    resumed = run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps="3", seed="7"))
    assert resumed.code == 0 and 3 in resumed.losses


def test_killed_before_the_first_checkpoint(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The same command starts anew; what the first attempt logged is no part of the history."""
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    first = Forked("recipes.pretrain", overrides(tiny_data, tmp_path, trainer__max_steps="2000"))
    kill_at_step(first, metrics, 6)
    again = run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps="4", optim__lr_decay_steps="20"))
    assert again.metrics[0] == {"event": "started", "step": 0}
    assert again.losses == {step: whole.losses[step] for step in range(1, 5)}
    steps = [record["step"] for record in again.metrics if "loss" in record]
    assert steps == [1, 2, 3, 4]


def test_nan_is_stopped_by_a_guard(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    assert run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps="4")).code == 0
    broken = overrides(tiny_data, tmp_path, trainer__max_steps="20", optim__lr="1e3", optim__clip_grad="0")
    # A weight becomes -1e12 times itself in each step.
    broken += ["optim.weight_decay=1e9", "trainer.checkpoint.every_n_steps=1"]
    outcome = run(gloo_pool, broken)
    assert outcome.code == GUARD
    *warnings, line = outcome.stderr.splitlines()
    assert line.startswith("stopped by a guard: 10 steps in a row were skipped; ") and "optim.lr" in line
    assert len(warnings) == 10 and all(" skipped: the gradient norm is " in each for each in warnings)
    # Every checkpoint is from a step whose gradients were sound; the last of the sound run is among them.
    for record in outcome.metrics:
        assert record.get("loss", 0) == record.get("loss", 0)
    assert 4 in checkpoint_steps(tmp_path)


@pytest.mark.slow
def test_bf16_on_the_cpu_trains_and_resumes(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    bf16 = {"trainer__precision": "bf16"}
    undisturbed = run(gloo_pool, overrides(tiny_data, tmp_path / "whole", **bf16))
    assert undisturbed.losses != {step: whole.losses[step] for step in undisturbed.losses}
    assert undisturbed.losses == pytest.approx({s: whole.losses[s] for s in undisturbed.losses}, rel=0.02)
    run(gloo_pool, overrides(tiny_data, tmp_path, trainer__max_steps="10", **bf16))
    resumed = run(gloo_pool, overrides(tiny_data, tmp_path, **bf16))
    assert resumed.losses == undisturbed.losses


def test_user_errors_of_a_real_process(tiny_data: TinyData, tmp_path: Path) -> None:
    process = start(overrides(tiny_data, tmp_path, resume="sometimes"))
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (2, "")
    assert err == "error: resume=sometimes: choose one of auto, never\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_place_without_room_for_checkpoints_is_refused_at_once(tiny_data: TinyData, tmp_path: Path) -> None:
    """Not by the first save, hours later."""
    checkpoints = tmp_path / "tiny" / "checkpoints"
    checkpoints.mkdir(parents=True)
    checkpoints.chmod(0o500)
    done = run_bound(sys.executable, "-m", "recipes.pretrain", *tiny_data.overrides(output_dir=str(tmp_path)))
    assert done.returncode == 2 and "torch" not in done.stdout, done.stdout
    assert done.stderr.startswith(f"error: cannot write {checkpoints / MANIFEST}: Permission denied")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "tiny" / "config.yaml").exists()


@pytest.mark.slow
def test_torchrun_with_a_signal_to_one_worker(tiny_data: TinyData, tmp_path: Path) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="5000", optim__lr_decay_steps="20")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    process = start(settings, launcher, start_new_session=True)
    try:
        wait_for_step(tmp_path / "tiny" / "metrics.jsonl", 8, lambda: process.poll() is None)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [
            int(pid) for pid in children if b"recipes.pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGTERM)
        out, err = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # torchrun itself ends with 1 and reports the workers' own exit codes.
    assert process.returncode == 1 and "exitcode  : 3" in err and "exitcode  : 1" not in err
    (stopped,) = checkpoint_steps(tmp_path)
    assert f"stopped by a signal at step {stopped}" in out


@pytest.mark.slow
def test_killed_again_and_again(
    whole: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Four kills at whatever the process is doing, saving included."""
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="40", trainer__checkpoint__every_n_steps="1")
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    for step in (3, 9, 17, 26):
        kill_at_step(Forked("recipes.pretrain", settings), metrics, step)
        shutil.rmtree(tmp_path / "tiny" / "index_cache", ignore_errors=True)
    outcome = run(gloo_pool, settings)
    assert outcome.losses == whole.losses
    assert not list((tmp_path / "tiny" / "checkpoints").glob(".*"))
