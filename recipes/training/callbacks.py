"""What happens around the training steps: metrics and progress, stopping."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from recipes.config.schema import PretrainConfig
from recipes.model.accounting import flops_per_token
from recipes.training.console import duration, say
from recipes.training.module import ParamGPT
from recipes.training.rundir import RunDirectory

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SIGNALLED, OUT_OF_TIME, NO_WISH = 1, 2, 3
REPEAT_S = 5.0


class GuardError(RuntimeError):
    """Training has gone wrong in a way that continuing would not mend; exit code 4."""


class Metrics(Callback):
    """Writes metrics.jsonl and one progress line per logged step, on rank 0."""

    def __init__(
        self, config: PretrainConfig, directory: RunDirectory, total_steps: int, peak_flops: float | None
    ):
        self.config, self.directory, self.total_steps = config, directory, total_steps
        self.peak_flops = peak_flops
        self.tokens_per_step = config.trainer.global_batch_size * config.data.seq_length
        self.flops_per_token = flops_per_token(config.model, config.data.seq_length)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = self.last_time = time.monotonic()
        self.first_step = self.last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        model: ParamGPT = pl_module
        step = trainer.global_step
        if not math.isfinite(model.grad_norm):
            raise GuardError(
                f"step {step}: the gradient norm is {model.grad_norm}; the last checkpoint is from before "
                "it. Lower optim.lr, or look at the data around this step"
            )
        if not model.is_logging_step(step):
            return
        assert model.losses is not None
        loss = (model.losses[0] / model.losses[1]).item()
        now = time.monotonic()
        rate = (step - self.last_step) * self.tokens_per_step / max(now - self.last_time, 1e-9)
        self.last_time, self.last_step = now, step
        if not trainer.is_global_zero:
            return
        self.directory.append_metrics(
            {
                "step": step,
                "consumed_samples": step * self.config.trainer.global_batch_size,
                "consumed_tokens": step * self.tokens_per_step,
                "loss": loss,
                "lr": model.learning_rate,
                "grad_norm": model.grad_norm,
                "tokens_per_second": rate,
                "mfu": self._mfu(rate, trainer),
                "elapsed_s": now - self.started,
                **model.experts_use,
            }
        )
        seconds_per_step = (now - self.started) / max(1, step - self.first_step)
        say(
            f"step {step:>6}/{self.total_steps}  loss {loss:7.4f}  lr {model.learning_rate:.2e}  "
            f"grad norm {model.grad_norm:6.3f}  {rate:,.0f} tokens/s  "
            f"{duration((self.total_steps - step) * seconds_per_step)} left"
        )

    def _mfu(self, tokens_per_second: float, trainer: Trainer) -> float | None:
        if self.peak_flops is None:
            return None
        return tokens_per_second * self.flops_per_token / (self.peak_flops * trainer.world_size)

    def leave_out_time(self, step: int) -> None:
        """What came between ``step`` and now was no training: the next rate leaves it out."""
        self.last_time, self.last_step = time.monotonic(), step

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.leave_out_time(trainer.global_step)
        if not trainer.is_global_zero or not pl_module.valid_metrics:
            return
        record = {"step": trainer.global_step, **pl_module.valid_metrics}
        self.directory.append_metrics({**record, "elapsed_s": time.monotonic() - self.started})
        say("valid  " + "  ".join(f"{key} {value:.4f}" for key, value in pl_module.valid_metrics.items()))


class StopControl(Callback):
    """Ends training after the present step on a signal or when max_time is over; all ranks agree.

    A signal ends a validation too, which may take longer than whoever sent it waits: its partial figures are
    dropped, and the step's checkpoint is written without them.

    A further signal ends the process at once, unless it comes right after the first: Slurm and torchrun may
    deliver one twice.
    """

    def __init__(self, max_seconds: float | None, talks: bool) -> None:
        self.max_seconds, self.talks = max_seconds, talks
        self.stopped_by = 0
        self._signalled_at: float | None = None
        self._previous = {int(number): signal.getsignal(number) for number in STOP_SIGNALS}

    def install(self) -> None:
        """Takes over the stop signals."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
            if self.talks:
                say(f"signal {signal.Signals(number).name}: stopping after this step, then saving")
        elif now - self._signalled_at > REPEAT_S:
            signal.signal(number, self._previous[number] or signal.SIG_DFL)
            signal.raise_signal(number)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = time.monotonic()
        # Again: Lightning's own SIGTERM handler, installed since, would leave without saving.
        self.install()
        trainer._signal_connector.received_sigterm = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        out_of_time = self.max_seconds is not None and time.monotonic() - self.started >= self.max_seconds
        wish = SIGNALLED if self._signalled_at is not None else OUT_OF_TIME if out_of_time else 0
        self._stop(self._agreed(wish, trainer), trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        # Not max_time: a run that ends in good order is validated to the end.
        wish = SIGNALLED if self._signalled_at is not None else 0
        if self._agreed(wish, trainer) == SIGNALLED:
            self._stop(SIGNALLED, trainer)
            pl_module.drop_validation()
            raise StopIteration  # Lightning's own word for the end of the data; its hooks after it still run.

    def _stop(self, reason: int, trainer: Trainer) -> None:
        self.stopped_by = reason
        if reason:
            trainer.should_stop = True
        if reason == SIGNALLED:
            # Lightning validates when it stops early; whoever sends a signal may not wait for that.
            trainer.limit_val_batches = 0

    @staticmethod
    def _agreed(wish: int, trainer: Trainer) -> int:
        """The smallest reason any rank has: a signal comes before the clock."""
        if trainer.world_size == 1:
            return wish
        first = torch.tensor(wish or NO_WISH, device=trainer.strategy.root_device)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        return int(first.item()) % NO_WISH


class FinalValidation(Callback):
    """Validates after the last step too, if the interval has not just done it."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.limit_val_batches or getattr(self, "validated_step", -1) == trainer.global_step:
            return
        # As Lightning's own training loop does it between two steps.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True


def known_peak_flops(device_name: Callable[[], str], configured: float | None) -> float | None:
    """Dense bf16 peak of one device in FLOP/s; None when unknown, so that no wrong MFU is reported."""
    if configured is not None:
        return configured * 1e12
    if not torch.cuda.is_available():
        return None
    # SXM parts by exact name, vendor's data sheets, without sparsity. PCIe and NVL variants are slower.
    peaks = {
        "NVIDIA H200": 989e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA A100-SXM4-40GB": 312e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
    }
    return peaks.get(device_name())
