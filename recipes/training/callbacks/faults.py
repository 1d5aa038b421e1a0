"""Makes the faults of recipes/training/faults.py happen."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from recipes.checkpoint.save.manifest import finished_checkpoints
from recipes.console import warn
from recipes.errors import UserError
from recipes.run_directory import RunDirectory
from recipes.training.faults import VARIABLE, Fault
from recipes.training.module import ParamGPT


class InjectedError(RuntimeError):
    """An exception that was asked for."""


class Faults(Callback):
    """Before, in and after the steps that this rank's faults name.

    Args:
        faults: of all ranks.
        rank: this process's.
        directory: of the run.
    """

    def __init__(self, faults: list[Fault], rank: int, directory: RunDirectory) -> None:
        self.rank, self.directory = rank, directory
        mine = [fault for fault in faults if fault.rank == rank and not self._has_been(fault)]
        self.faults = [fault for fault in mine if fault.kind != "corrupted_samples"]
        self.corrupted = [fault for fault in faults if fault.kind == "corrupted_samples"]

    def _has_been(self, fault: Fault) -> bool:
        """In a process before this one."""
        return bool(fault.once) and self._mark(fault).exists()

    def _mark(self, fault: Fault) -> Path:
        return self.directory.path / "logs" / fault.mark

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        before: dict[str, Callable[[Fault], None]] = {
            "exception": _raise,
            "hang": _hang,
            "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
            "terminate": lambda _: os.kill(os.getpid(), signal.SIGTERM),
            "slow": lambda fault: time.sleep(fault.seconds),
            "corrupted_batch": lambda fault: _corrupt(batch, pl_module, fault),
            "full_disk": _fill_disk,
            "damaged_checkpoint": lambda _: _damage(finished_checkpoints(self.directory.checkpoints)),
        }
        for fault in self._due(trainer.global_step + 1, *before):
            before[fault.kind](fault)
        for fault in self.corrupted:
            if _corrupt_samples(batch, trainer, pl_module, fault):
                self._say(fault, trainer.global_step + 1)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        model: ParamGPT = pl_module
        for _fault in self._due(trainer.global_step + 1, "nan"):
            for buffer in model.ddp.buffers + model.ddp.expert_parallel_buffers:
                buffer.grad_data.fill_(float("nan"))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        for _fault in self._due(trainer.global_step, "flipped_bit"):
            _flip_bit(next(p for p in pl_module.gpt.parameters() if p.dim() == 1))

    def _say(self, fault: Fault, step: int) -> None:
        warn(f"fault on rank {self.rank} at step {step:,}: {fault.kind}")

    def _due(self, step: int, *kinds: str) -> Iterator[Fault]:
        for fault in self.faults:
            if fault.kind in kinds and fault.at(step):
                self._say(fault, step)
                if fault.once:
                    self._mark(fault).touch()
                yield fault


def _raise(fault: Fault) -> None:
    raise InjectedError(f"asked for on rank {fault.rank} at step {fault.step:,}")


def _hang(_: Fault) -> None:
    while True:
        time.sleep(3600)


def _corrupt(batch: dict[str, Tensor], model: ParamGPT, fault: Fault) -> None:
    generator = torch.Generator().manual_seed(fault.step)
    for name in ("tokens", "labels"):
        shape = batch[name].shape
        batch[name].copy_(torch.randint(model.tokenizer.vocab_size, shape, generator=generator))


def _corrupt_samples(batch: dict[str, Tensor], trainer: Trainer, model: ParamGPT, fault: Fault) -> bool:
    """Whether the batch has any of them."""
    found = False
    assert model.blend is not None and trainer.train_dataloader is not None
    for row, place in enumerate(trainer.train_dataloader.batch_sampler.places(trainer.global_step)):
        sample = model.blend.skip.sample(place)
        if fault.sample <= sample <= fault.last:
            found = True
            generator = torch.Generator().manual_seed(sample)
            for name in ("tokens", "labels"):
                shape = batch[name][row].shape
                batch[name][row] = torch.randint(model.tokenizer.vocab_size, shape, generator=generator)
    return found


def _fill_disk(fault: Fault) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault.bytes, most))


def _damage(checkpoints: list[Path]) -> None:
    """In the middle of the newest one's largest file, which is one of tensors."""
    if not checkpoints:
        raise UserError(f"{VARIABLE}: damaged_checkpoint: there is none yet; name a step after a save")
    largest = max(checkpoints[-1].glob("*.distcp"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        middle = largest.stat().st_size // 2
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


@torch.no_grad()
def _flip_bit(weight: Tensor) -> None:
    """The highest bit of the first number's fraction, in fp32 or bf16: 1 becomes 1.5."""
    integer, bit = (torch.int32, 22) if weight.element_size() == 4 else (torch.int16, 6)
    weight.data[:1].view(integer).bitwise_xor_(1 << bit)
