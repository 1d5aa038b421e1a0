"""The Lightning strategy: megatron-core's process groups, DDP, optimizer and distributed checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from recipes.checkpoint.local.files import is_local
from recipes.checkpoint.local.save import LocalSaves
from recipes.checkpoint.local.state import load_local, rank_state
from recipes.checkpoint.save.background import BackgroundSave
from recipes.checkpoint.save.between import BetweenSaves
from recipes.checkpoint.save.training_state import load_training_checkpoint, save_sharded, training_state
from recipes.code_version import code_version
from recipes.config.run_directory import config_sha256
from recipes.config.schema import ParallelConfig
from recipes.config.world import World
from recipes.console import say
from recipes.parallel.setup import device_of, init_model_parallel, init_process_group

# The parts of Lightning's own checkpoint that we keep: plain numbers, lists and dictionaries.
LIGHTNING_KEYS = ("pytorch-lightning_version", "epoch", "global_step", "loops", "lr_schedulers", "recipes")


@dataclass(frozen=True)
class SaveOptions:
    """What ``trainer.save_checkpoint(path, storage_options=...)`` takes."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the manifest."""
    in_background: bool = False
    """Return before the checkpoint is written: :attr:`MegatronStrategy.background` finishes it."""
    local_after: int | None = None
    """Begin a local checkpoint that follows this shared one: :attr:`MegatronStrategy.local` finishes it."""


class LaunchedEnvironment(ClusterEnvironment):
    """The processes that torchrun or Slurm has already started."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return LightningEnvironment().main_address

    @property
    def main_port(self) -> int:
        return LightningEnvironment().main_port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.world.size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self.world.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self.world.local_rank

    def node_rank(self) -> int:
        return self.world.rank // self.world.local_size


class MegatronStrategy(ParallelStrategy):
    """Runs a :class:`~recipes.training.module.ParamGPT` in the launched processes.

    ``has_groups``: another strategy in this process has made the process groups.
    """

    def __init__(self, world: World, parallel: ParallelConfig, seed: int, *, has_groups: bool) -> None:
        super().__init__(cluster_environment=LaunchedEnvironment(world))
        self.world, self.parallel, self.seed, self.has_groups = world, parallel, seed, has_groups
        self._between = BetweenSaves()
        self.background = BackgroundSave(self._between)
        self.local: LocalSaves | None = None

    @property
    def root_device(self) -> torch.device:
        return device_of(self.world)

    def setup_environment(self) -> None:
        """Process groups come first, as the model's parts are built for them."""
        # As Lightning's own strategies do: its loggers ask for it.
        rank_zero_only.rank = self.world.rank  # type: ignore[attr-defined]
        if not self.has_groups:
            init_process_group(self.world)
            init_model_parallel(self.parallel, self.seed)
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.setup_precision_plugin()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)

    def model_to_device(self) -> None:
        """Does nothing: the model is built on its device."""

    def barrier(self, name: str | None = None) -> None:
        if dist.is_initialized():
            dist.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        if self.world.size == 1:
            return obj
        box = [obj]
        dist.broadcast_object_list(box, src)
        return box[0]

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Sum or mean over all ranks."""
        if not isinstance(tensor, Tensor) or self.world.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total / self.world.size if reduce_op in ("mean", "avg") else total

    # Checkpoints: Lightning keeps its counters, megatron-core writes and reads the files.

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """The optimizer must exist before its sharded state can be read."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Empty: :meth:`save_checkpoint` uses the sharded state dict instead."""
        return {}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Empty, for the same reason."""
        return {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: SaveOptions | None = None
    ) -> None:
        options = storage_options or SaveOptions()
        plain = {key: checkpoint[key] for key in LIGHTNING_KEYS if key in checkpoint}
        # In a checkpoint written at the end of a validation, this would make a resumed run believe that it is
        # in the middle of one and validate only the rest.
        plain["loops"]["fit_loop"].pop("epoch_loop.val_loop.batch_progress", None)
        self._module.gather_parameters()
        gpt, optimizer, ema = self._module.gpt, self._module.megatron_optimizer, self._module.engine.ema
        if options.local_after is not None:
            assert self.local is not None
            self.local.start(
                plain["global_step"], plain, rank_state(gpt, optimizer, ema), options.local_after
            )
            return
        facts = {
            "step": plain["global_step"],
            "config_sha256": self._config_sha256,
            **options.facts,
        }
        if self.world.rank == 0:  # It writes the manifest; many ranks would all ask git.
            facts["code"] = code_version()
        save = (
            self.background.start if options.in_background else partial(save_sharded, between=self._between)
        )
        # The state is not kept in a variable: it is as large as the model in memory.
        save(Path(filepath), training_state(gpt, optimizer, plain, ema), facts)

    def load_checkpoint(self, checkpoint_path: str | Path) -> dict[str, Any]:
        """Reads weights and optimizer state into place; returns Lightning's part."""
        path = Path(checkpoint_path)
        if self.world.rank == 0 and (size := sum(file.stat().st_size for file in path.iterdir())) >= 2**30:
            say(f"load   {size / 2**30:,.1f} GiB of weights and optimizer state")
        with self._module.start_up.part("state"):
            load = load_local if is_local(path) else load_training_checkpoint
            engine = self._module.engine
            plain = load(path, self._module.gpt, engine.optimizer, engine.ema)
            if engine.ema is not None:
                engine.ema.steps = int(plain["global_step"])
        return {**plain, "state_dict": {}, "optimizer_states": [], "callbacks": {}}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Does nothing: :meth:`load_checkpoint` has already loaded it."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Does nothing, likewise."""

    @property
    def _module(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module

    @cached_property
    def _config_sha256(self) -> str:
        return config_sha256(self._module.run)  # Writing it out takes as long as a step of a small model.

    def teardown(self) -> None:
        """Leaves the model on its device: it is still needed to write model.nemo."""
