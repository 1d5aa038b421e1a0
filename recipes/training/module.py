"""ParamGPT: the NeMo model around megatron-core's GPTModel."""

from __future__ import annotations

import platform
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from nemo.core.classes import ModelPT
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from recipes.checkpoint.save.training_state import load_training_checkpoint
from recipes.checkpoint.stored.description import description_of
from recipes.code_version import code_version, versions
from recipes.config.fp8 import model_of
from recipes.config.phases import model_after, model_in
from recipes.config.schedule import schedule_of
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import Segment, timeline_of
from recipes.console import say
from recipes.data.samples.blend import BlendState, RunBlend, blend_changes, with_restarted
from recipes.data.samples.loader import training_loader, training_sources, validation_loader
from recipes.data.samples.skip import Skip
from recipes.data.tokenizer import TextTokenizer
from recipes.families.family import draws_random_numbers
from recipes.model.build import build_gpt_model, set_rotary_base
from recipes.model.init import initialize_weights
from recipes.optim.gradients import finalize_model_grads
from recipes.optim.learning_rate import LearningRate
from recipes.optim.non_finite import forget_skipped_steps
from recipes.parallel.setup import resolve_dtype, seed_random_states
from recipes.run_directory import RunDirectory
from recipes.training.changed_settings import settings_record
from recipes.training.cuda_graph import step_of
from recipes.training.deterministic import gradients_twice
from recipes.training.engine import Engine, build_engine
from recipes.training.expert_metrics import expert_usage, reset_expert_usage
from recipes.training.fetched import Fetched
from recipes.training.held_out import AVERAGES, HeldOutFigures, validates_averages
from recipes.training.loss_spikes import SpikeDetector
from recipes.training.norms import Norms
from recipes.training.optimizer_view import LightningOptimizerView
from recipes.training.resume import changed_sources, data_record, held_out_record, sizes_until
from recipes.training.start import load_start_weights
from recipes.training.start_up import StartUp
from recipes.training.step import Step, forward_backward, reduce_losses

PACKAGES = ("torch", "megatron-core", "nemo_toolkit", "lightning", "transformer-engine")
"""What figures depend on besides this code."""


class ParamGPT(ModelPT):
    """Trains a described model.

    Args:
        cfg: the model section in classic NeMo's terms; it becomes the .nemo file's model_config.yaml.
        run: the whole run's settings.
        tokenizer: the tokenizer that the data was made with.
        run_directory: where the run's files are.
        total_steps: optimizer steps of the whole run.
        start_up: gets the times of what comes before the first step.
    """

    def __init__(
        self,
        cfg: DictConfig,
        run: PretrainConfig,
        tokenizer: TextTokenizer,
        run_directory: RunDirectory,
        total_steps: int,
        start_up: StartUp,
        trainer: Any = None,
    ) -> None:
        super().__init__(cfg=cfg, trainer=trainer)
        # Gradient accumulation, reduction and clipping are megatron-core's, not Lightning's.
        self.automatic_optimization = False
        self.run, self.tokenizer, self.run_directory = run, tokenizer, run_directory
        self.total_steps, self.timeline = total_steps, timeline_of(run)
        self.start_up = start_up
        self.dtype_ = resolve_dtype(run.trainer.precision)
        self.init_from: Path | None = None
        self.skip = Skip(run.data.skip)
        """Samples that are left out, those of loss spikes included."""
        guards = run.trainer.guards
        self.spikes: SpikeDetector | None = None
        if guards.loss_spike_zscore is not None:
            self.spikes = SpikeDetector(guards.loss_spike_zscore, guards.loss_spike_window)
        self.saved_blend: BlendState | None = None
        self.blend: RunBlend | None = None
        self._data_record, self._held_out_record = data_record(run), held_out_record(run)
        self._entered: tuple[int, int, int] | None = None
        self.losses: Tensor | None = None
        self.valid_metrics: dict[str, float] = {}
        self.held_out = HeldOutFigures(run.data.valid)
        self._averages_in_use = False
        self._reseeds = draws_random_numbers(run.model)
        self._repeats = False
        """trainer.deterministic: it has been seen that gradients are the same each time."""
        self.expert_usage: dict[str, float | list[float]] = {}
        self.norms: dict[str, float] = {}

    # Building

    def configure_model(self) -> None:
        """Builds this rank's part of the model, its DDP wrapper and the optimizer, on the device."""
        if getattr(self, "gpt", None) is not None:
            return
        run = self.run
        device = self.trainer.strategy.root_device
        with self.start_up.part("model"):
            gpt = build_gpt_model(model_of(run), run.parallel, self.dtype_)
        with self.start_up.part("weights"):
            if self.init_from is None:
                initialize_weights(gpt, run.model, run.seed)
            gpt.to(device)
            if self.init_from is not None:
                load_start_weights(self.init_from, gpt)
        # Outside torch's module tree: Lightning must not move, count or save what megatron-core manages.
        self.__dict__["gpt"] = gpt
        with self.start_up.part("optimizer"):
            engine = self.__dict__["engine"] = build_engine(gpt, run, self.dtype_)
        self.halves = step_of(engine, run, device)
        self._enter(self.timeline.at(0))
        if self.init_from is not None and run.init_from_state == "full":
            with self.start_up.part("state"):
                load_training_checkpoint(self.init_from, gpt, self.megatron_optimizer, engine.ema)

    gpt: GPTModel
    engine: Engine
    halves: Step

    @property
    def ddp(self) -> DistributedDataParallel:
        return self.engine.ddp

    @property
    def megatron_optimizer(self) -> MegatronOptimizer:
        return self.engine.optimizer

    def gather_parameters(self) -> None:
        """Brings the parameters of all ranks up to date before they are read outside a forward pass.

        All ranks must call it. With overlap_param_gather an optimizer step updates only a rank's own shard;
        the others are gathered in the next forward pass, which reuses what was gathered here.
        """
        if self.run.parallel.overlap_param_gather:
            self.ddp.start_param_sync(force_sync=True)

    def configure_optimizers(self) -> Any:
        self._view = LightningOptimizerView(self.halves)
        self._rates = LearningRate(self.run.optim, schedule_of(self.run), self.megatron_optimizer)
        return self._view

    def about(self) -> dict[str, Any]:
        """What the figures depend on besides the settings: this process's code, and the data's content."""
        code = code_version() | {"python": platform.python_version(), **versions(PACKAGES)}
        return {"code": code, "data": self._data_record, "held_out": self._held_out_record}

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One optimizer step over the global batch; ``batch`` is this rank's share, ``[n, s]``."""
        # Dropout and routers' noise depend only on the seed and the step: no random state has to be
        # saved, and resuming is exact.
        step_seed = (self.run.seed * 1_000_003 + self.trainer.global_step) % 2**31
        if self._reseeds:
            seed_random_states(step_seed)
        self._enter(self.timeline.at(self.trainer.global_step))
        if not self.gpt.training:  # It walks through all modules.
            self.gpt.train()
        has_experts = self.run.model.num_moe_experts is not None
        if has_experts:
            reset_expert_usage(self.gpt)
        self.learning_rate = self._rates.set(self.trainer.global_step)
        if self.run.trainer.deterministic and not self._repeats:

            def gradients() -> Any:
                if self._reseeds:
                    seed_random_states(step_seed)
                if has_experts:
                    reset_expert_usage(self.gpt)
                return self.halves.gradients(batch)

            outputs = gradients_twice(self.engine, gradients)
            self._repeats = True
        else:
            outputs = self.halves.gradients(batch)
        detailed = self.is_detailed_step(self.trainer.global_step + 1)
        norms = self._measured_norms if detailed else None
        if norms is not None:
            norms.before_update()
        self.trainer.strategy.background.hold_back()
        self.optimizers().step()
        self.norms = {}
        if norms is not None:
            assert self._view.grad_norm is not None
            self.norms = norms.after_update(self._view.grad_norm)
        if self.spikes is not None or self.is_logging_step(self.trainer.global_step):
            self.losses = reduce_losses(outputs, batch["tokens"].device)
            if has_experts:
                micro_batches = len(batch["tokens"]) // self.halves.micro_batch_size
                self.expert_usage = expert_usage(
                    self.gpt, self.run.model, micro_batches, each_expert=detailed
                )

    def _enter(self, segment: Segment) -> None:
        """Gets ready for steps of another size, or of another rotary base."""
        base = model_in(self.run, segment.phase).rotary_base
        now = segment.micro_batch_size, segment.seq_length, base
        if now == self._entered:
            return
        set_rotary_base(self.gpt, base)
        self.halves.resize(segment.micro_batch_size, segment.seq_length)
        self._entered = now

    def is_logging_step(self, step: int) -> bool:
        """Whether metrics are written after ``step`` optimizer steps."""
        return step % self.run.trainer.log_every_n_steps == 0 or step in (1, self.total_steps)

    def is_detailed_step(self, step: int) -> bool:
        """Whether the metrics of ``step`` have those of trainer.log_details_every_n_steps."""
        every = self.run.trainer.log_details_every_n_steps
        return every is not None and step % every == 0

    @cached_property
    def _measured_norms(self) -> Norms:
        run = self.run
        return Norms(self.gpt, self.megatron_optimizer, run.model.num_layers, run.optim.clip_grad)

    def begin_again(self, skip: list[list[int]], start_up: StartUp) -> None:
        """Before another trainer continues from an earlier checkpoint, in the same process.

        Args:
            skip: samples that are left out from now on.
            start_up: as for a new run.
        """
        self.skip, self.start_up = Skip(skip), start_up
        self.init_from, self.saved_blend, self.blend = None, None, None
        forget_skipped_steps(self.megatron_optimizer)
        # What callbacks have wrapped around it, and what was recorded with the old state's addresses.
        self.ddp.config.finalize_model_grads_func = finalize_model_grads
        self.halves = step_of(self.engine, self.run, self.trainer.strategy.root_device)

    def fetch_loss(self) -> Fetched | None:
        """The last step's loss per token, where every step's is looked at."""
        if self.spikes is None:
            return None
        assert self.losses is not None
        return Fetched(self.losses[0] / self.losses[1])

    def fetch_grad_norm(self) -> Fetched:
        """Global gradient norm of the last step, before clipping."""
        assert self._view.grad_norm is not None
        return Fetched(self._view.grad_norm)

    # Data

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        with self.start_up.part("data"):
            return self._train_dataloader()

    def _train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        step = self.trainer.global_step
        config, cache_dir = self.run, self.run_directory.index_cache
        sources = training_sources(config, self.tokenizer, cache_dir)
        loader, self.blend = training_loader(
            config,
            sources,
            self.saved_blend,
            first_step=step,
            total_steps=self.total_steps,
            data_parallel_rank=parallel_state.get_data_parallel_rank(),
            data_parallel_size=parallel_state.get_data_parallel_world_size(),
            skip=self.skip,
        )
        if self.trainer.is_global_zero and self.saved_blend is not None:
            for line in blend_changes(self.saved_blend, self.blend.state_at(self.timeline.samples(step))):
                say(line)
        return loader

    def val_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """Of every held-out set; where the averages are validated too, of every set once more for them."""
        loaders = [
            validation_loader(
                self.run,
                prefix,
                self.tokenizer,
                cache_dir=self.run_directory.index_cache,
                data_parallel_rank=parallel_state.get_data_parallel_rank(),
                data_parallel_size=parallel_state.get_data_parallel_world_size(),
            )
            for prefix in self.run.data.valid.values()
        ]
        return loaders * 2 if validates_averages(self.run.trainer.ema) else loaders

    # Validation

    def on_validation_epoch_start(self) -> None:
        self.gpt.eval()
        self.held_out.clear()

    def _use_averages(self, use: bool) -> None:
        """The model computes with the averages of its weights, or again with the weights."""
        if use != self._averages_in_use:
            assert self.engine.ema is not None
            self.gather_parameters()
            self.trainer.strategy.background.hold_back()
            self.engine.ema.swap()
            self._averages_in_use = use

    @torch.no_grad()
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._use_averages(self.held_out.kind(dataloader_idx) == AVERAGES)
        outputs = forward_backward(
            self.ddp, batch, micro_batch_size=self.run.trainer.micro_batch_size, forward_only=True
        )
        self.held_out.add(dataloader_idx, reduce_losses(outputs, batch["tokens"].device))

    def drop_validation(self) -> None:
        """Discards the sums so far: an interrupted validation has no figures."""
        self.held_out.clear()

    def on_validation_epoch_end(self) -> None:
        """Loss per token and bits per byte of every held-out set, into :attr:`valid_metrics`."""
        self._use_averages(False)
        self.valid_metrics = self.held_out.metrics()
        self.gpt.train()

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        step = self.trainer.global_step
        consumed = self.timeline.samples(step)
        assert self.blend is not None
        checkpoint["recipes"] = {
            "consumed_samples": consumed,
            "consumed_tokens": self.timeline.tokens(step),
            "sizes": sizes_until(self.timeline, step),
            "seed": self.run.seed,
            "model": description_of(model_after(self.run, step)),
            "data": self._data_record,
            "held_out": self._held_out_record,
            "blend": vars(self.blend.state_at(consumed)),
            "skip": [list(each) for each in self.skip.ranges],
            "recent_losses": [] if self.spikes is None else list(self.spikes.losses),
            "settings": settings_record(self.run),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["recipes"]
        # That of the last step: until the next one the weights are those of its phase.
        self._enter(self.timeline.at(max(0, int(checkpoint["global_step"]) - 1)))
        self.saved_blend = BlendState.from_dict(state["blend"], state.get("seq_length"))
        if restarted := changed_sources(self.run, state.get("data", {})):
            consumed = Skip(state.get("skip", [])).sample(int(state["consumed_samples"]))
            self.saved_blend = with_restarted(self.saved_blend, consumed, restarted)
        if self.spikes is not None:
            self.spikes.restore(state.get("recent_losses", []))

    def save_to(self, save_path: str) -> None:
        """Writes a .nemo from the parts that all ranks hold; NeMo's own method handles one rank only."""
        self.gather_parameters()
        self._save_restore_connector.save_to(self, save_path)

    # What NeMo asks of every model

    def setup(self, stage: str | None = None) -> None:
        """Nothing: NeMo's would ask for all data, twice, before the checkpoint says how a run goes on."""

    def setup_training_data(self, train_data_config: DictConfig | dict[str, Any]) -> None:
        """Nothing: :meth:`train_dataloader` builds the data once process groups exist."""

    def setup_validation_data(self, val_data_config: DictConfig | dict[str, Any]) -> None:
        """Nothing, likewise."""

    @classmethod
    def list_available_models(cls) -> None:
        return None
