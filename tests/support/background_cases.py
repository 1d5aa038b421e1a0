"""Runs whose background writer is slow, waits or dies; and what a checkpoint holds, tensor by tensor."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.run_cases import Outcome, run_case


def case_with_writer(overrides: list[str], what: str, number: float) -> Outcome:
    """A run whose writer ``waits for`` so many further steps (but at the end of training), ``takes`` so many
    seconds longer, or ``dies on`` a rank.
    """
    import recipes.checkpoint.background as background
    import recipes.training.checkpoints as checkpoints

    original = background._write
    read, write = os.pipe()

    def delayed(*args: Any) -> None:
        if what == "waits for":
            os.close(write)
            os.read(read, 1)
        elif what == "takes":
            time.sleep(number)
        elif os.environ["RANK"] == str(number):
            os._exit(9)
        original(*args)

    callback: Any = checkpoints.Checkpoints
    hooks = {name: getattr(callback, name) for name in ("on_train_batch_end", "on_train_end")}

    def after_step(self: Any, trainer: Any, *args: Any) -> None:
        # Before the callback looks whether the writer has finished.
        if trainer.global_step - self.saved_step == number and self._background(trainer).pending:
            os.write(write, b"!")
        hooks["on_train_batch_end"](self, trainer, *args)

    def at_end(self: Any, trainer: Any, *args: Any) -> None:
        if self._background(trainer).pending:
            os.write(write, b"!")
        hooks["on_train_end"](self, trainer, *args)

    background._write = delayed
    if what == "waits for":
        callback.on_train_batch_end, callback.on_train_end = after_step, at_end
    try:
        return run_case(overrides)
    finally:
        background._write = original
        for name, hook in hooks.items():
            setattr(callback, name, hook)
        os.close(read)
        os.close(write)


def state_of(paths: list[Path]) -> list[dict[str, str]]:
    """Name -> hash of type, shape and content of every tensor, and the plain data, of each checkpoint."""
    import hashlib

    import torch.distributed as dist
    from megatron.core import dist_checkpointing

    from recipes.checkpoint.safety import load_plain
    from tests.support.engine import process_groups

    states = []
    with process_groups():
        assert dist.get_world_size() == 1
        for path in paths:
            tensors = dist_checkpointing.load_plain_tensors(str(path))
            state = {"common": repr(load_plain(path / "common.pt"))}
            for name, tensor in tensors.items():
                described = f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()
                state[name] = hashlib.sha256(described).hexdigest()
            states.append(state)
    return states


def main() -> None:
    """``python -m tests.support.background_cases FIFO -m recipes.pretrain ...``: from step 8 on, the writer
    waits for somebody to open the pipe.
    """
    fifo = Path(sys.argv[1])
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    import recipes.checkpoint.background as background
    from recipes.config.hydra_app import compose
    from recipes.pretrain import run

    original: Callable[..., None] = background._write

    def waits(parent: int, transforms: list[Any], buckets: list[Any], report: Any) -> None:
        if "step_00000008" in buckets[0][0]:
            describe = background.describe_file

            def blocked(path: Path) -> dict[str, Any]:
                fifo.read_bytes()
                return describe(path)

            background.describe_file = blocked
        original(parent, transforms, buckets, report)

    background._write = waits
    sys.exit(run(compose("pretrain", sys.argv[4:])))


if __name__ == "__main__":
    main()
