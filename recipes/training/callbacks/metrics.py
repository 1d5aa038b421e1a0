"""metrics.jsonl, and one line of progress per logged step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from recipes.config.devices import PEAK_FLOPS
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.console import say
from recipes.plan.accounting import flops_by_length, flops_until
from recipes.run_directory import RunDirectory
from recipes.training.callbacks.stragglers import Stragglers
from recipes.training.fetched import Fetched
from recipes.training.module import ParamGPT
from recipes.training.rollback import LossSpikeError
from recipes.training.skipped_steps import SkippedSteps
from recipes.training.start_up import StartUp
from recipes.training.step_line import StepLines, peak_memory
from recipes.training.time_left import TimeLeft


class Metrics(Callback):
    """Writes metrics.jsonl and one progress line per logged step, on rank 0."""

    def __init__(
        self,
        config: PretrainConfig,
        directory: RunDirectory,
        total_steps: int,
        peak_flops: float | None,
        start_up: StartUp,
        stragglers: Stragglers,
    ):
        self.config, self.directory, self.total_steps = config, directory, total_steps
        self.peak_flops, self.start_up, self.stragglers = peak_flops, start_up, stragglers
        self.timeline = timeline_of(config)
        self._flops_per_token = flops_by_length(config.model, self.timeline)
        pauses = {
            "validation": config.trainer.val_check_interval,
            "save": config.trainer.checkpoint.every_n_steps,
            "local save": config.trainer.checkpoint.local.every_n_steps,
            "samples": config.trainer.samples.every_n_steps,
            "evaluation": config.trainer.evaluation.every_n_steps,
        }
        self.time_left = TimeLeft(total_steps, pauses, self._flops)
        self.lines: StepLines | None = None
        self.last_time = 0.0
        self._unchecked: dict[int, tuple[Fetched, Fetched | None]] = {}
        self._grad_norm = 0.0

    def _flops(self, steps: int) -> int:
        """Of the run's first ``steps`` steps."""
        return flops_until(steps, self.timeline, self._flops_per_token)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = self.last_time = time.monotonic()
        self.first_step = self.last_step = trainer.global_step
        most = self.config.trainer.guards.max_skipped_steps
        self.spikes = pl_module.spikes
        self.scale = pl_module.engine.loss_scale
        self.skipped = SkippedSteps(pl_module, most, trainer.is_global_zero)
        if trainer.is_global_zero and self.first_step < self.total_steps:
            say(f"train  from step {self.first_step}")
            self.lines = StepLines(self.total_steps, self.first_step, trainer.world_size)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self._step_ended(trainer, pl_module)
        if self.lines is not None:
            self.lines.step_ended(trainer.global_step)
            self._announce_phase(trainer.global_step)

    def _step_ended(self, trainer: Trainer, model: ParamGPT) -> None:
        step = trainer.global_step
        scale = self.scale
        overflowed = scale is not None and scale.overflowed
        if scale is not None and overflowed:
            self.check_all()
            self.skipped.overflowed(step, scale)
        else:
            self._unchecked[step] = model.fetch_grad_norm(), model.fetch_loss()
        if step == self.first_step + 1:
            self._report_start_up(trainer, model)
        if not model.is_logging_step(step):
            # One step late, so that the device has always something to do; equally late on every rank.
            self._check(step - 1)
            if step == self.first_step + 1:  # Compilation belongs to no rate.
                self.last_time, self.last_step = time.monotonic(), step
                self.time_left.step_ended(step, self.last_time)
            return
        grad_norm = self.check_all()
        assert model.losses is not None
        loss = (model.losses[0] / model.losses[1]).item()
        slowest = self.stragglers.report(step)
        now = time.monotonic()
        seconds = max(now - self.last_time, 1e-9)
        rate = (self.timeline.tokens(step) - self.timeline.tokens(self.last_step)) / seconds
        mfu = self._mfu((self._flops(step) - self._flops(self.last_step)) / seconds, trainer)
        self.last_time, self.last_step = now, step
        self.time_left.step_ended(step, now)
        if not trainer.is_global_zero or not math.isfinite(grad_norm) or overflowed:
            return  # What a skipped step leaves behind has been written.
        record = {
            "step": step,
            "consumed_samples": self.timeline.samples(step),
            "consumed_tokens": self.timeline.tokens(step),
            **self._phase(step),
            "loss": loss,
            "lr": model.learning_rate,
            "grad_norm": grad_norm,
            "tokens_per_second": rate,
            "tokens_per_second_per_device": rate / trainer.world_size,
            "mfu": mfu,
            "memory_bytes": peak_memory(),
            "elapsed_s": now - self.started,
            **model.norms,
            **({} if scale is None else {"loss_scale": scale.now}),
            **model.expert_usage,
            **slowest,
        }
        self.directory.append_metrics(record)
        assert self.lines is not None
        self.lines.logged(record, self.time_left.seconds())

    def _announce_phase(self, step: int) -> None:
        """Says which phase begins after a step."""
        begins = self.timeline.at(step)
        if begins.first_step != step or begins.phase == self.timeline.at(step - 1).phase:
            return
        if step < self.total_steps:
            say(
                f"phase  {self.config.phases[begins.phase].name or begins.phase} from step {step + 1:,}, "
                f"{begins.first_token:,} tokens: batches of {begins.global_batch_size:,} x "
                f"{begins.seq_length:,} tokens"
            )

    def _report_start_up(self, trainer: Trainer, model: ParamGPT) -> None:
        self.check_all()  # Also for the step to be over.
        self.start_up.seconds["first step"] = time.monotonic() - self.started
        if trainer.is_global_zero:
            record = {"event": "first_step", "step": trainer.global_step, **self.start_up.record()}
            self.directory.append_metrics(record | model.about())
            say(self.start_up.line(record))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.lines is not None:
            self.lines.close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)

    def check_all(self) -> float:
        """The last step's gradient norm, before clipping. To be called before weights are stored or used.

        Raises:
            GuardError: too many steps in a row were skipped. Norms are global, so every rank raises it.
            LossSpikeError: a loss is a spike. Losses are global, too.
        """
        return self._check(max(self._unchecked, default=0))

    def _check(self, newest: int) -> float:
        """The same of all steps up to this one that have not been checked."""
        for step in sorted(self._unchecked):
            if step <= newest:
                norm, loss = self._unchecked.pop(step)
                self._grad_norm = norm.number()
                if math.isfinite(self._grad_norm):
                    self.skipped.sound(step, self.scale)
                    if loss is not None:
                        self._look_at(step, loss.number())
                else:
                    self.skipped.skipped(step, self._grad_norm)
        return self._grad_norm

    def _look_at(self, step: int, loss: float) -> None:
        assert self.spikes is not None
        spike = self.spikes.add(step, loss)
        if spike is not None:
            raise LossSpikeError(spike)

    def _mfu(self, flops_per_second: float, trainer: Trainer) -> float | None:
        if self.peak_flops is None:
            return None
        return flops_per_second / (self.peak_flops * trainer.world_size)

    def _phase(self, step: int) -> dict[str, Any]:
        """Of a run in phases: which one a step is in, and its size."""
        if not self.config.phases:
            return {}
        now = self.timeline.at(step - 1)
        return {
            "phase": self.config.phases[now.phase].name or now.phase,
            "global_batch_size": now.global_batch_size,
            "seq_length": now.seq_length,
        }

    @contextmanager
    def pause(self, kind: str) -> Iterator[None]:
        """For what is not training: its time is left out of the next rate."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused(kind, time.monotonic() - began)

    def _paused(self, kind: str, seconds: float) -> None:
        self.last_time += seconds
        self.time_left.paused(kind, seconds)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.check_all()
        self.validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._paused("validation", time.monotonic() - self.validation_began)
        if not trainer.is_global_zero or not pl_module.valid_metrics:
            return
        record = {"step": trainer.global_step, **pl_module.valid_metrics}
        self.directory.append_metrics({**record, "elapsed_s": time.monotonic() - self.started})
        say("valid  " + "  ".join(f"{key} {value:.4f}" for key, value in pl_module.valid_metrics.items()))


def known_peak_flops(device_name: Callable[[], str], configured: float | None) -> float | None:
    """Dense bf16 peak of one device in FLOP/s; None if unknown, so that no wrong MFU is reported."""
    if configured is not None:
        return configured * 1e12
    if not torch.cuda.is_available():
        return None
    return PEAK_FLOPS.get(device_name())
