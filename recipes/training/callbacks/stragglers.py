"""How much longer than the others the slowest rank works on a step."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from recipes.console import warn
from recipes.training.module import ParamGPT


class _Moment:
    """A point in the device's work, or of the host's clock where the host does the work."""

    def __init__(self) -> None:
        self._time = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if torch.cuda.is_available():
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def seconds_since(self, earlier: _Moment) -> float:
        """Both must be over."""
        if self._event is not None and earlier._event is not None:
            return earlier._event.elapsed_time(self._event) / 1000
        return self._time - earlier._time


class Stragglers(Callback):
    """Measures each rank's own part of a step: from the end of the last one until gradients are reduced.

    From there on ranks wait for each other and all take the same time. Reading the batch is included. Ranks
    of one pipeline or of split layers wait for each other before that, too: they are slow together.

    Args:
        warn_from: times the median rank's; None: never.
    """

    def __init__(self, warn_from: float | None) -> None:
        self.warn_from = warn_from
        self._start: _Moment | None = None
        self._steps: list[tuple[_Moment, _Moment]] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        model: ParamGPT = pl_module
        if trainer.world_size == 1:
            return
        config = model.ddp.config
        finalize = config.finalize_model_grads_func

        def after_own_work(*args: Any, **named: Any) -> None:
            if self._start is not None:
                self._steps.append((self._start, _Moment()))
            finalize(*args, **named)

        config.finalize_model_grads_func = after_own_work

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.world_size > 1:
            self._start = _Moment()

    on_validation_end = on_train_batch_end

    def report(self, step: int) -> dict[str, float]:
        """For metrics.jsonl: of the steps since the last report. All ranks call it once these are done."""
        if not self._steps:  # The same on all ranks: a single one, or the first step.
            return {}
        seconds = torch.zeros(dist.get_world_size(), dtype=torch.float64)
        seconds[dist.get_rank()] = sum(end.seconds_since(begin) for begin, end in self._steps)
        dist.all_reduce(seconds)
        of_ranks = seconds.tolist()
        self._steps.clear()
        slowest = max(range(len(of_ranks)), key=of_ranks.__getitem__)
        # Of two ranks the mean would be the median, and no rank twice as slow as that.
        ratio = of_ranks[slowest] / max(statistics.median_low(of_ranks), 1e-9)
        if self.warn_from is not None and ratio >= self.warn_from and dist.get_rank() == 0:
            warn(
                f"step {step:,}: rank {slowest} works {ratio:.2f} times as long on a step as the median rank"
            )
        return {"slowest_rank": slowest, "slowest_rank_ratio": round(ratio, 4)}
