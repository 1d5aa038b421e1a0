"""The steps of a run that saves, and what its saves cost."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from lightning.pytorch import Callback

import recipes.training.fit as training
from benchmarks.measure.step_time import WARM_UP, prepare
from benchmarks.records import record
from recipes.config.run_directory import run_directory_of
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.training.run import pretrain

QUIET, BEGINS, UNDER_WAY, PUBLISHED = "quiet", "begins", "under way", "published"


class SaveClock(Callback):
    """The time of every step and what a save did in it; runs after the callback that saves."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.steps: list[tuple[float, str]] = []
        self.was_pending = False

    def on_train_start(self, *_: Any) -> None:
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        now, pending = time.perf_counter(), trainer.strategy.background.pending
        if trainer.global_step % self.every == 0:
            what = BEGINS
        elif self.was_pending:
            what = UNDER_WAY if pending else PUBLISHED
        else:
            what = QUIET
        self.steps.append((now - self.last, what))
        self.last, self.was_pending = now, pending

    def after_warm_up(self) -> list[tuple[float, str]]:
        """The steps after the first save, which includes one-time costs."""
        return self.steps[WARM_UP + self.every :]


def clocked_run(config: PretrainConfig, name: str, *, async_save: bool) -> SaveClock:
    """Trains, then deletes what was saved."""
    checkpoint = dataclasses.replace(config.trainer.checkpoint, async_save=async_save)
    trainer = dataclasses.replace(config.trainer, checkpoint=checkpoint)
    config = dataclasses.replace(config, name=name, trainer=trainer)
    assert checkpoint.every_n_steps is not None
    clock = SaveClock(checkpoint.every_n_steps)
    trainer_of = training._trainer

    def with_clock(*args: Any) -> Any:
        lightning: Any = trainer_of(*args)
        lightning.callbacks.append(clock)
        return lightning

    with patch.object(training, "_trainer", with_clock):
        pretrain(config)
    directory = run_directory_of(config)
    newest = max(directory.checkpoints.iterdir())
    size = sum(file.stat().st_size for file in newest.iterdir())
    print(f"a checkpoint has {size / 1e6:,.0f} MB", flush=True)
    shutil.rmtree(directory.path)
    return clock


def report(
    waiting: list[list[tuple[float, str]]], background: list[list[tuple[float, str]]], json: Path | None
) -> None:
    """Prints medians in ms and the ratios."""
    times = {
        name: {
            what: [seconds for run in runs for seconds, kind in run if kind == what]
            for what in (QUIET, BEGINS, UNDER_WAY, PUBLISHED)
        }
        for name, runs in (("waited for", waiting), ("background", background))
    }
    quiet = statistics.median(times["waited for"][QUIET] + times["background"][QUIET])
    print(f"step without a save      {1000 * quiet:10.1f} ms")
    for name, kinds in times.items():
        saves = len(kinds[BEGINS])
        held_up = [seconds - quiet for seconds in kinds[BEGINS]]
        lost = sum(seconds - quiet for what in (BEGINS, UNDER_WAY, PUBLISHED) for seconds in kinds[what])
        print(f"{name}: {saves} saves")
        print(f"  held up at the start   {1000 * statistics.median(held_up):10.1f} ms")
        if kinds[PUBLISHED]:
            published = statistics.median(kinds[PUBLISHED])
            print(f"  held up at publication {1000 * (published - quiet):10.1f} ms")
        if kinds[UNDER_WAY]:
            slow = statistics.median(kinds[UNDER_WAY])
            print(f"  step under way         {1000 * slow:10.1f} ms, ratio {slow / quiet:.3f}")
            print(f"  steps under way        {len(kinds[UNDER_WAY]) / saves:10.1f} per save")
        print(f"  lost per save          {1000 * lost / saves:10.1f} ms")
        record(
            json,
            who=name,
            step_ms=1000 * quiet,
            held_up_ms=1000 * statistics.median(held_up),
            lost_ms_per_save=1000 * lost / saves,
        )


def run(options: argparse.Namespace) -> None:
    """Measures in turns and prints what a save costs."""
    waiting, background = [], []
    with tempfile.TemporaryDirectory() as temporary:
        every = f"trainer.checkpoint.every_n_steps={options.every}"
        steps = options.every * (options.saves + 2) - 1
        config = prepare(options.data or Path(temporary), [*options.overrides, every], steps - WARM_UP - 1)
        validate_pretrain(config)
        for turn in range(options.turns):
            waiting.append(
                clocked_run(config, f"waiting_{os.getpid()}_{turn}", async_save=False).after_warm_up()
            )
            background.append(
                clocked_run(config, f"background_{os.getpid()}_{turn}", async_save=True).after_warm_up()
            )
    report(waiting, background, options.json)
