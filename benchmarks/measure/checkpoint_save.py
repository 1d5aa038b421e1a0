"""The steps of a run that saves, and what its saves cost."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
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
from recipes.counts import counted
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


@dataclass(frozen=True)
class Save:
    """What one save cost, in seconds."""

    begins: float
    """How much longer the step took in which it began: the whole save, if training waited for it."""
    published: float
    """The same of the step in which it was published."""
    under_way: list[float]
    """The steps in between, as long as they were."""
    took: float
    """From its beginning to its publication."""
    lost: float
    """What all of these steps took longer than without a save."""

    @property
    def stall(self) -> float:
        """How long training stood still."""
        return self.begins + self.published


def saves_of(steps: list[tuple[float, str]], quiet: float) -> list[Save]:
    """The saves that were published before the next began, or that training waited for.

    A step takes ``quiet`` seconds without one.
    """
    saves: list[Save] = []
    begins: float | None = None
    under_way: list[float] = []
    for seconds, what in steps:
        if what == BEGINS:
            begins, under_way = seconds - quiet, []
        elif begins is not None and what == UNDER_WAY:
            under_way.append(seconds)
        elif begins is not None:
            last = seconds if what == PUBLISHED else quiet
            lost = begins + sum(step - quiet for step in under_way) + last - quiet
            took = begins + sum(under_way) + (last if what == PUBLISHED else 0.0)
            saves.append(Save(begins, last - quiet, under_way, took, lost))
            begins = None
    return saves


def report(
    waiting: list[list[tuple[float, str]]], background: list[list[tuple[float, str]]], json: Path | None
) -> None:
    """Prints medians in ms and the ratios."""
    quiet = statistics.median(t for run in (*waiting, *background) for t, what in run if what == QUIET)
    print(f"step without a save      {1000 * quiet:10.1f} ms")
    for name, runs in (("waited for", waiting), ("background", background)):
        saves = [save for run in runs for save in saves_of(run, quiet)]
        begun = sum(what == BEGINS for run in runs for _, what in run)
        print(f"{name}: {counted(len(saves), 'save')}")
        if len(saves) < begun:
            print(f"  {begun - len(saves)} more were not published when the next was due: raise --every")
        if not saves:
            continue
        held_up, published, took, lost = (
            statistics.median(getattr(save, each) for save in saves)
            for each in ("begins", "published", "took", "lost")
        )
        share = statistics.median(save.stall / save.took for save in saves)
        print(f"  held up at the start   {1000 * held_up:10.1f} ms")
        if name == "background":
            print(f"  held up at publication {1000 * published:10.1f} ms")
            if under_way := [t for save in saves for t in save.under_way]:
                slow = statistics.median(under_way)
                print(f"  step under way         {1000 * slow:10.1f} ms, ratio {slow / quiet:.3f}")
                print(f"  steps under way        {len(under_way) / len(saves):10.1f} per save")
            print(
                f"  a save takes           {1000 * took:10.1f} ms, training stood still for {share:.3f} of it"
            )
        print(f"  lost per save          {1000 * lost:10.1f} ms")
        record(
            json,
            who=name,
            step_ms=1000 * quiet,
            held_up_ms=1000 * held_up,
            save_ms=1000 * took,
            stall_share=share,
            lost_ms_per_save=1000 * lost,
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
