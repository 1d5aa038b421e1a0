"""metrics.jsonl, and one line of progress per logged step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from recipes.config.schema import PretrainConfig
from recipes.console import duration, say
from recipes.plan.accounting import flops_per_token
from recipes.run_directory import RunDirectory
from recipes.training.module import ParamGPT


class GuardError(RuntimeError):
    """Training has gone wrong in a way that continuing would not fix; exit code 4."""


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
                f"step {step:,}: the gradient norm is {model.grad_norm}; the last checkpoint is from before "
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
                **model.expert_usage,
            }
        )
        seconds_per_step = (now - self.started) / max(1, step - self.first_step)
        say(
            f"step {step:>7,}/{self.total_steps:,}  loss {loss:7.4f}  lr {model.learning_rate:.2e}  "
            f"grad norm {model.grad_norm:6.3f}  {rate:,.0f} tokens/s  "
            f"{duration((self.total_steps - step) * seconds_per_step)} left"
        )

    def _mfu(self, tokens_per_second: float, trainer: Trainer) -> float | None:
        if self.peak_flops is None:
            return None
        return tokens_per_second * self.flops_per_token / (self.peak_flops * trainer.world_size)

    def leave_out_time(self, step: int) -> None:
        """Leaves the time since ``step``, which was not training, out of the next rate."""
        self.last_time, self.last_step = time.monotonic(), step

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.leave_out_time(trainer.global_step)
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
    # SXM parts by exact name, from NVIDIA's data sheets, without sparsity. PCIe and NVL variants are slower.
    peaks = {
        "NVIDIA H200": 989e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA A100-SXM4-40GB": 312e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
    }
    return peaks.get(device_name())
