"""megatron-core's DDP and optimizer around a model: what a training step of one process consists of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from recipes.checkpoint.stored.parameter_names import parameter_names
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import Timeline, timeline_of
from recipes.errors import UserError
from recipes.model.backend import have_transformer_engine
from recipes.model.gpt import GPTModel as OwnGPTModel
from recipes.model.main_grad import add_to_main_grads
from recipes.optim.build import build_optimizer, uses_distributed_optimizer
from recipes.optim.ema import Ema
from recipes.optim.gradients import finalize_model_grads
from recipes.optim.loss_scale import LossScale, loss_scale_of

RECOMPILES_PER_SIZE = 8
"""torch's own limit, for all that is not a size."""


@dataclass(frozen=True)
class Engine:
    """A model with its gradient buffers and its optimizer."""

    ddp: DistributedDataParallel
    optimizer: MegatronOptimizer
    added_by_product: list[torch.nn.Parameter]
    """Weights whose layers add to the main gradients themselves, see recipes/model/main_grad.py."""
    ema: Ema | None
    """The average of the weights, if the run keeps one."""
    loss_scale: LossScale | None
    """fp16's."""

    def prepare_update(self) -> None:
        """What the host does before :meth:`update`, which may be recorded."""
        if self.ema is not None:
            self.ema.prepare()

    def update(self) -> Tensor:
        """Updates the weights and their average; the gradients' global norm before clipping, ``[]``.

        It is infinite where fp16's gradients overflowed, see :attr:`loss_scale`: nothing was updated.
        """
        if self.loss_scale is not None:
            self.loss_scale.begin()
        updated, norm, _ = self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.end(overflowed=not updated)
        if not updated:
            norm = torch.full((), float("inf"), device=torch.cuda.current_device())
        if self.ema is not None:
            self.ema.update(norm)
        return norm

    def finalize(self, num_tokens: Tensor) -> None:
        """After a step's last backward pass, unless megatron-core's schedule has done it; see not_finalized.

        ``num_tokens``: that this rank's losses are of, ``[]``, an integer.
        """
        self.ddp.config.finalize_model_grads_func([self.ddp], num_tokens)

    @contextmanager
    def not_finalized(self) -> Iterator[None]:
        """megatron-core's schedule leaves the gradients as sums over this rank's tokens."""
        config = self.ddp.config
        function, config.finalize_model_grads_func = config.finalize_model_grads_func, None
        try:
            yield
        finally:
            config.finalize_model_grads_func = function

    def zero_gradients(self) -> None:
        """Before a step's first backward pass."""
        self.ddp.zero_grad_buffer()
        for weight in self.added_by_product:
            weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
        self.optimizer.zero_grad()


def build_engine(gpt: GPTModel, run: PretrainConfig, dtype: torch.dtype) -> Engine:
    """Wraps a model on its device as the run says. Layers are compiled by the first step, if at all.

    Raises:
        UserError: a setting would be ignored with such a model, or such weights.
    """
    if dtype == torch.float32 and not run.trainer.grad_reduce_in_fp32:
        raise UserError(
            "trainer.grad_reduce_in_fp32=false: would be ignored: weights are fp32 here; set bf16"
        )
    ddp = DistributedDataParallel(
        gpt.config,
        DistributedDataParallelConfig(
            use_distributed_optimizer=uses_distributed_optimizer(run.optim),
            overlap_grad_reduce=run.parallel.overlap_grad_reduce,
            overlap_param_gather=run.parallel.overlap_param_gather,
            grad_reduce_in_fp32=run.trainer.grad_reduce_in_fp32,
        ),
        gpt,
    )
    names = parameter_names(gpt) if run.optim.groups else {}
    optimizer = build_optimizer(run.optim, run.parallel, dtype, [ddp], names, run.trainer.fp16)
    if run.optim.z_loss_coeff:
        _add_z_loss(gpt, run.optim.z_loss_coeff)
    if dist.get_world_size() == 1 and not run.parallel.overlap_grad_reduce:
        # A single rank has nothing to reduce or to gather, which would cost it two launches.
        for name in ("finish_grad_sync", "start_param_sync"):
            setattr(ddp, name, _do_nothing)
    gpt.config.finalize_model_grads_func = finalize_model_grads
    gpt.config.grad_scale_func = optimizer.scale_loss
    if run.parallel.overlap_grad_reduce:
        gpt.config.no_sync_func = ddp.no_sync
    if run.parallel.overlap_param_gather:
        gpt.config.param_sync_func = ddp.start_param_sync
    if compiles_layers(run):
        _compile_each_size(timeline_of(run))
        for layer in gpt.decoder.layers:
            layer.compile()
    ema = Ema(optimizer, run.trainer.ema) if run.trainer.ema.decay is not None else None
    return Engine(ddp, optimizer, add_to_main_grads(gpt), ema, loss_scale_of(optimizer))


def _add_z_loss(gpt: GPTModel, coefficient: float) -> None:
    if not isinstance(gpt, OwnGPTModel):
        raise UserError(
            f"optim.z_loss_coeff={coefficient}: the family computes a loss of its own; set it to 0"
        )
    gpt.z_loss_coeff = coefficient


def _compile_each_size(timeline: Timeline) -> None:
    """Of a run whose micro-batches change their size, layers are compiled for each, when it comes.

    torch would take a second size for a sign that sizes are arbitrary, and compile slower kernels for all.
    """
    sizes = {(each.micro_batch_size, each.seq_length) for each in timeline.segments}
    if len(sizes) > 1:
        torch._dynamo.config.automatic_dynamic_shapes = False
        # Validation has a size of its own.
        torch._dynamo.config.recompile_limit = RECOMPILES_PER_SIZE * (len(sizes) + 1)


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def compiles_layers(run: PretrainConfig) -> bool:
    """What trainer.compile means on this machine."""
    if run.trainer.compile != "auto":
        return bool(run.trainer.compile)
    parallel = run.parallel
    return (
        torch.cuda.is_available()
        and not have_transformer_engine()  # Its modules are fused already, and cannot be compiled.
        and run.model.num_moe_experts is None
        and parallel.tensor_model_parallel_size == parallel.context_parallel_size == 1
    )
