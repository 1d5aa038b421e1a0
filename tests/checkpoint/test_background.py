"""Saving in the background: the same checkpoints as in the foreground, and nothing left by a death."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.manifest import MANIFEST, finished_checkpoints, verify
from tests.support.background_cases import case_with_writer, state_of
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case, signalled_case, start, wait_for_step


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {
        "output_dir": str(output_dir),
        "save_nemo": "false",
        "trainer__max_steps": "12",
        "trainer__checkpoint__every_n_steps": "4",
        "trainer__checkpoint__keep_last": "9",
        "trainer__checkpoint__asynchronous": "true",
    }
    return data.overrides(**settings | changes)


TP2 = ["parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true"]
SYNCHRONOUS = "trainer.checkpoint.asynchronous=false"


def names(output_dir: Path) -> list[str]:
    return sorted(path.name for path in (output_dir / "tiny" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def foreground(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: Any) -> tuple[Path, Outcome]:
    """12 steps with synchronous saves at 4, 8 and 12."""
    output_dir = tmp_path_factory.mktemp("foreground")
    (outcome,) = gloo_pool.run(1, run_case, [*overrides(tiny_data, output_dir), SYNCHRONOUS])
    return output_dir, outcome


@pytest.mark.parametrize("layout", [[], TP2, ["parallel.world_size=2"]], ids=["single", "tp2", "dp2"])
def test_what_is_saved_while_training_goes_on_is_the_state_of_its_step(
    layout: list[str], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The writer is held back until training is two steps further; every tensor is still that of its step."""
    world = 2 if layout else 1
    settings = overrides(tiny_data, tmp_path / "background")
    outcomes = gloo_pool.run(world, case_with_writer, [*settings, *layout], "waits for", 2)
    assert [outcome.code for outcome in outcomes] == [0] * world
    plain = [*overrides(tiny_data, tmp_path / "plain"), *layout, SYNCHRONOUS]
    reference = gloo_pool.run(world, run_case, plain)
    assert outcomes[0].losses == reference[0].losses
    assert names(tmp_path / "background") == names(tmp_path / "plain")
    # It is said to be saved after the loss of a later step is.
    lines = outcomes[0].stdout.splitlines()
    (saved,) = [
        place for place, line in enumerate(lines) if line.startswith("saved") and "step_00000004" in line
    ]
    assert any(line.startswith("step      6/12") for line in lines[:saved])
    paths = finished_checkpoints(tmp_path / "background" / "tiny" / "checkpoints")
    for path in paths:
        verify(path)
        other = tmp_path / "plain" / "tiny" / "checkpoints" / path.name
        assert {file.name for file in path.iterdir()} == {file.name for file in other.iterdir()}
    states = gloo_pool.run(1, state_of, paths)[0]
    others = gloo_pool.run(
        1, state_of, [tmp_path / "plain" / path.relative_to(tmp_path / "background") for path in paths]
    )[0]
    assert states == others and len(states) == 3
    assert len({hash(frozenset(state.items())) for state in states}) == 3, "training does change the state"
    assert any("exp_avg_sq" in key for key in states[0]) and any("optimizer" in key for key in states[0])


def test_resumed_from_a_background_save_the_losses_are_the_same(
    foreground: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Saved under TP 2, resumed by one process, and the other way round."""
    for world, first, second in ((2, TP2, []), (1, [], TP2)):
        output = tmp_path / str(world)
        gloo_pool.run(world, run_case, [*overrides(tiny_data, output), *first])
        shutil.rmtree(output / "tiny" / "checkpoints" / "step_00000012")
        resumed = gloo_pool.run(3 - world, run_case, [*overrides(tiny_data, output), *second])[0]
        assert {"event": "resumed", "step": 8, "checkpoint": "step_00000008"} in resumed.metrics
        assert resumed.losses == pytest.approx(foreground[1].losses, rel=1e-5)
    single = tmp_path / "single"
    gloo_pool.run(1, run_case, overrides(tiny_data, single, trainer__max_steps="8"))
    resumed = gloo_pool.run(1, run_case, overrides(tiny_data, single))[0]
    assert resumed.losses == foreground[1].losses and len(resumed.losses) == 12


def test_one_save_at_a_time(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """A save every step, with a writer that takes longer than a step: each is there, none overtakes."""
    settings = overrides(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="1", trainer__max_steps="6")
    (outcome,) = gloo_pool.run(1, case_with_writer, settings, "takes", 0.2)
    assert outcome.code == 0 and len(names(tmp_path)) == 6
    saved = [line for line in outcome.stdout.splitlines() if line.startswith("saved")]
    assert [line.split("step_")[1][:8] for line in saved] == [f"{step:08d}" for step in range(1, 7)]


def test_a_signal_is_obeyed_after_the_pending_save(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="3000", optim__lr_decay_steps="20")
    (outcome,) = gloo_pool.run(1, signalled_case, settings, 6, int(signal.SIGTERM), 2)
    assert outcome.code == 3
    paths = finished_checkpoints(tmp_path / "tiny" / "checkpoints")
    stopped = outcome.metrics[-1]["step"]
    assert [verify(path)["step"] for path in paths] == sorted({*range(4, stopped + 1, 4), stopped})
    assert names(tmp_path) == [path.name for path in paths]


# Disks that refuse, writers that die


@pytest.mark.parametrize("layout", [[], TP2], ids=["single", "tp2"])
def test_a_disk_that_refuses(
    layout: list[str],
    foreground: tuple[Path, Outcome],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    shutil.copytree(foreground[0], tmp_path / "outputs")
    output = tmp_path / "outputs"
    shutil.rmtree(output / "tiny" / "checkpoints" / "step_00000012")
    settings = [*overrides(tiny_data, output, trainer__checkpoint__every_n_steps="10"), *layout]
    outcomes = gloo_pool.run(2 if layout else 1, run_case, settings, 200_000)
    for outcome in outcomes:
        assert outcome.code == 2 and "\n" not in outcome.message
        assert "step_00000010: cannot be saved" in outcome.message
        assert "File too large" in outcome.message or "a write failed" in outcome.message
        assert "earlier checkpoints are untouched" in outcome.message
    assert names(output) == ["step_00000004", "step_00000008"]
    resumed = gloo_pool.run(1, run_case, overrides(tiny_data, output))[0]
    assert resumed.code == 0 and resumed.losses == foreground[1].losses


@pytest.mark.parametrize("rank", [0, 1])
def test_a_writer_that_is_killed_is_noticed(
    rank: int, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    outcomes = gloo_pool.run(2, case_with_writer, [*overrides(tiny_data, tmp_path), *TP2], "dies on", rank)
    for outcome in outcomes:
        assert outcome.code == 2 and "ended without a result; was it killed?" in outcome.message
        assert "step_00000004: cannot be saved" in outcome.message and "\n" not in outcome.message
    assert names(tmp_path) == []


def descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_kill_9_during_a_save_leaves_no_process_and_no_checkpoint(
    foreground: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="100000", optim__lr_decay_steps="20")
    process = start(settings, ("-m", "tests.support.background_cases", str(fifo)))
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    try:
        wait_for_step(metrics, 10, lambda: process.poll() is None)
        # The save of step 8 is waiting for the pipe; that of step 4 is whole.
        (writer,) = descendants(process.pid)
        process.kill()
        process.communicate(timeout=10)  # Both ends of its output are closed: nobody holds them any more.
    finally:
        process.kill()
    deadline = time.monotonic() + 5
    while running(writer) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running(writer)
    assert [path.name for path in finished_checkpoints(tmp_path / "tiny" / "checkpoints")] == [
        "step_00000004"
    ]
    assert not (tmp_path / "tiny" / "checkpoints" / "step_00000008").exists()
    partial = tmp_path / "tiny" / "checkpoints" / ".step_00000008.partial"
    assert partial.is_dir() and not (partial / MANIFEST).exists()
    resumed = gloo_pool.run(1, run_case, overrides(tiny_data, tmp_path))[0]
    assert {"event": "resumed", "step": 4, "checkpoint": "step_00000004"} in resumed.metrics
    assert resumed.losses == foreground[1].losses and not partial.exists()
    assert names(tmp_path) == ["step_00000004", "step_00000008", "step_00000012"]


# The best


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_the_best_is_kept_named_and_known_after_a_resume(
    asynchronous: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """A learning rate that ruins the model after step 4: the best is early, and stays."""
    changes = {
        "trainer__checkpoint__asynchronous": asynchronous,
        "trainer__checkpoint__every_n_steps": "2",
        "trainer__val_check_interval": "2",
        "trainer__checkpoint__keep_last": "1",
        "trainer__checkpoint__keep_best": "1",
        "trainer__checkpoint__keep_every_n_steps": "6",
    }
    settings = overrides(tiny_data, tmp_path, **changes)
    (first,) = gloo_pool.run(1, run_case, [*settings, "trainer.max_steps=4"])
    ruined = [*settings, "optim.lr=3", "optim.min_lr=3", "optim.clip_grad=0"]
    (outcome,) = gloo_pool.run(1, run_case, [*ruined, "trainer.max_steps=10"])
    assert (first.code, outcome.code) == (0, 0)
    losses = {
        record["step"]: (record["valid.en.loss"] + record["valid.hi.loss"]) / 2
        for record in outcome.metrics
        if "valid.en.loss" in record
    }
    assert min(losses, key=lambda step: losses[step]) == 4 and set(losses) == {2, 4, 6, 8, 10}
    assert names(tmp_path) == ["best", "step_00000004", "step_00000006", "step_00000010"]
    checkpoints = tmp_path / "tiny" / "checkpoints"
    assert (checkpoints / "best").readlink() == Path("step_00000004")
    for path in finished_checkpoints(checkpoints):
        manifest = verify(path)
        assert manifest["valid_loss"] == losses[manifest["step"]], "that of its own step"
    assert f"best   step_00000004, validation loss {losses[4]:.4f}" in first.stdout
    start_there = ["name=second", f"init_from={checkpoints / 'best'}", "trainer.max_steps=1"]
    (second,) = gloo_pool.run(1, run_case, [*settings, *start_there])
    assert second.code == 0 and f"start  from {checkpoints / 'best'}" in second.stdout
