"""Runs as TensorBoard and Weights & Biases show them: the figures of metrics.jsonl, every step once."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

from recipes.checkpoint.save.manifest import step_directory
from recipes.config.hydra_app import compose
from recipes.run_directory import RunDirectory, read_metrics
from recipes.training.loggers import TensorBoardFeed, figures_of
from tests.support.corpus import TinyData
from tests.support.forked import Forked
from tests.support.logged import (
    Points,
    failing_logger_case,
    tensorboard_curves,
    tensorboard_texts,
    wandb_config,
    wandb_curves,
    wandb_ids,
)
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case, wait_for_step


def settings(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    short = {"output_dir": str(output_dir), "save_nemo": "false", "trainer__val_check_interval": "4"}
    return [*data.overrides(**(short | changes)), "logger=[tensorboard,wandb]", "wandb.offline=true"]


def expected_curves(run: Path) -> dict[str, Points]:
    """What metrics.jsonl says; a resumed run may validate the step that it resumes from once more."""
    curves: dict[str, dict[int, float]] = {}
    for record in read_metrics(run / "metrics.jsonl"):
        for tag, value in figures_of(record).items():
            curves.setdefault(tag, {})[record["step"]] = value
    return {tag: list(points.items()) for tag, points in curves.items()}


def assert_same(curves: dict[str, Points], expected: dict[str, Points]) -> None:
    """Equal up to TensorBoard's 32 bits."""
    assert curves.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in curves[tag]] == [step for step, _ in points], tag
        assert curves[tag], tag
        for (_, value), (_, wanted) in zip(curves[tag], points, strict=True):
            assert math.isclose(value, wanted, rel_tol=1e-6), tag


def steps_of(points: Points) -> list[int]:
    return [step for step, _ in points]


def without_times(curves: dict[str, Points]) -> dict[str, Points]:
    """Those of the figures that do not depend on how long a step takes."""
    of_times = ("tokens_per_second", "mfu", "elapsed_s", "memory_bytes")
    return {tag: points for tag, points in curves.items() if not any(name in tag for name in of_times)}


def test_a_killed_and_resumed_run_has_every_point_once(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    run = tmp_path / "tiny"
    killed = settings(tiny_data, tmp_path, trainer__max_steps="1000", trainer__checkpoint__every_n_steps="4")
    process = Forked("recipes.pretrain", killed)
    metrics = run / "metrics.jsonl"
    try:
        wait_for_step(metrics, 6, lambda: process.poll() is None)
        while "train/loss" not in wandb_curves(run) or wandb_curves(run)["train/loss"][-1][0] < 6:
            assert process.poll() is None, process.written()
            time.sleep(0.1)
    finally:
        process.kill()
    reached = max(record["step"] for record in read_metrics(metrics) if "loss" in record)
    # The last line may have been written before it was passed on.
    assert steps_of(tensorboard_curves(run)["train/loss"])[: reached - 1] == list(range(1, reached))

    # The kill may have come right after a save; steps are to be trained twice.
    newest = step_directory(run / "checkpoints", reached)
    if newest.exists():
        shutil.rmtree(newest)
    total = reached + 5
    resumed = settings(tiny_data, tmp_path, trainer__max_steps=str(total))
    (outcome,) = gloo_pool.run(1, run_case, [*resumed, "trainer.samples={every_n_steps:1000,prompts:[x]}"])
    assert outcome.code == 0, outcome.message
    (begin,) = [record["step"] for record in outcome.metrics if record.get("event") == "resumed"]
    assert begin < reached, "some steps were trained twice"
    expected = expected_curves(run)
    assert steps_of(expected["train/loss"]) == list(range(1, total + 1))
    assert steps_of(expected["valid/hi.loss"])[:2] == [4, 8]
    assert_same(without_times(tensorboard_curves(run)), without_times(expected))
    curves = wandb_curves(run)
    # Steps of the killed run's last second may be missing there; none is there twice.
    steps = steps_of(curves["train/loss"])
    assert steps == sorted(set(steps))
    assert set(range(1, 7)) | set(range(reached + 1, total + 1)) <= set(steps)
    # Those that were trained twice have their first times and, as resuming is exact, the same losses.
    known = {
        tag: [point for point in points if point[0] in dict(curves[tag])] for tag, points in expected.items()
    }
    assert_same(without_times(curves), without_times(known))

    assert len(wandb_ids(run)) == 2 and len(set(wandb_ids(run))) == 1
    config = wandb_config(run)
    assert config["trainer"]["max_steps"] == total and config["optim"]["lr"] == 1e-3
    assert set(config["about"]["data"]) == {"en", "hi"} and "megatron-core" in config["about"]["code"]
    texts = tensorboard_texts(run)
    assert [step for step, _ in texts["run/configuration"]] == [0, begin + 1]
    assert f"max_steps: {total}" in texts["run/configuration"][-1][1]
    assert "megatron-core" in texts["run/about"][-1][1]


def test_one_of_several_ranks_logs(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    several = settings(tiny_data, tmp_path, trainer__max_steps="4", trainer__log_every_n_steps="2")
    several += ["trainer.samples={every_n_steps:2,prompts:[India is]}"]
    for outcome in gloo_pool.run(2, run_case, several):
        assert outcome.code == 0, outcome.message
    expected = expected_curves(run)
    assert steps_of(expected["train/loss"]) == [1, 2, 4]
    assert_same(tensorboard_curves(run), expected)
    samples = [record for record in outcome.metrics if record.get("event") == "sample"]
    texts = [(record["step"], "India is" + record["completion"]) for record in samples]
    curves: dict[str, Any] = wandb_curves(run)
    assert curves.pop("samples/India is") == texts and len(texts) == 2
    assert_same(curves, expected)
    assert [step for step, _ in tensorboard_texts(run)["samples/India is"]] == [2, 4]
    assert len(list((run / "tensorboard").glob("events.*"))) == 1 and len(wandb_ids(run)) == 1
    assert outcome.stdout == "" or "logger" in outcome.stdout


def test_a_copied_run_does_not_go_on_with_the_curves_of_the_other(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """What has been sent to Weights & Biases cannot be taken back."""
    run, copy = tmp_path / "tiny", tmp_path / "copy"
    (outcome,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, trainer__max_steps="2"))
    assert outcome.code == 0
    shutil.copytree(run, copy)
    copied = settings(tiny_data, tmp_path, trainer__max_steps="4", name="copy")
    (outcome,) = gloo_pool.run(1, run_case, copied)
    assert outcome.code == 0
    assert len(wandb_ids(copy)) == 2 and len(set(wandb_ids(copy))) == 2
    (outcome,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, trainer__max_steps="4"))
    assert outcome.code == 0
    assert len(wandb_ids(run)) == 2 and len(set(wandb_ids(run))) == 1


def test_a_run_that_starts_again_begins_its_curves_again(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Stopped before anything was saved."""
    run = tmp_path / "tiny"
    (outcome,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, trainer__max_steps="3"))
    assert outcome.code == 0
    checkpoint = run / "checkpoints" / "step_00000003"
    checkpoint.rename(tmp_path / "moved_away")
    (outcome,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, trainer__max_steps="2"))
    assert outcome.code == 0
    assert steps_of(tensorboard_curves(run)["train/loss"]) == [1, 2]
    assert len(set(wandb_ids(run))) == 2, "another run of Weights & Biases"


def test_a_logger_that_fails_does_not_end_the_run(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    (outcome,) = gloo_pool.run(1, failing_logger_case, settings(tiny_data, tmp_path, trainer__max_steps="5"))
    assert outcome.code == 0
    warning = (
        "warning: logger=tensorboard gets no more figures, metrics.jsonl has them all: OSError: [Errno 28]"
    )
    assert outcome.stderr.count(warning) == 1
    assert steps_of(tensorboard_curves(tmp_path / "tiny")["train/loss"]) == [1, 2]
    assert steps_of(wandb_curves(tmp_path / "tiny")["train/loss"]) == [1, 2, 3, 4, 5]


def test_a_rollback_replaces_what_came_after_its_step(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    feed = TensorBoardFeed(compose("pretrain", ["experiment=quickstart"]), directory, None, {})
    for step in range(1, 7):
        feed.pass_on({"step": step, "loss": float(step)})
    feed.pass_on({"event": "resumed", "step": 3})
    for step in (4, 5):
        feed.pass_on({"step": step, "loss": 10.0 + step})
    feed.pass_on({"step": 5, "valid.hi.loss": 2.0})
    feed.close(0)
    curves = tensorboard_curves(tmp_path)
    assert curves["train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 14.0), (5, 15.0)]
    assert curves["valid/hi.loss"] == [(5, 2.0)]


def test_figures_and_nothing_else() -> None:
    record = {"step": 3, "loss": 1.5, "mfu": None, "valid.a.b.loss": 2.0, "moe.load": [0.5, 1.5], "x": True}
    assert figures_of(record) == {
        "train/loss": 1.5,
        "valid/a.b.loss": 2.0,
        "moe/load.0": 0.5,
        "moe/load.1": 1.5,
    }
    assert figures_of({"step": 3, "elapsed_s": 2.0, "valid.hi.loss": 2.0}) == {"valid/hi.loss": 2.0}
    assert figures_of({"event": "first_step", "step": 1, "start_up_s": 3.0}) == {}
