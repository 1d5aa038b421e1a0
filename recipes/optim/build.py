"""megatron-core's optimizer and learning-rate schedule from the configuration."""

from __future__ import annotations

import megatron.core.optimizer as mcore_optimizer
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    distrib_optimizer,
    get_megatron_optimizer,
)
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.optim.adamw import AdamW


def build_optimizer(
    optim: OptimConfig,
    parallel: ParallelConfig,
    dtype: torch.dtype,
    model_chunks: list[DistributedDataParallel],
) -> MegatronOptimizer:
    """Adam over megatron-core's DDP chunks, its state sharded over data-parallel ranks (ZeRO-1).

    Always the distributed optimizer, on one process too: megatron-core's other optimizers write checkpoints
    in another form, which it could not read back, and so a run could not change its layout.
    """
    if mcore_optimizer.USING_PYTORCH_OPTIMIZER:
        # Neither Transformer Engine nor Apex is there: ours takes the place of Apex's FusedAdam, whose step
        # count per parameter group is what megatron-core can save and reshard.
        mcore_optimizer.Adam = distrib_optimizer.Adam = AdamW
        mcore_optimizer.USING_PYTORCH_OPTIMIZER = False
        distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_APEX_OPTIMIZER = True
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        min_lr=optim.min_lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_eps=optim.eps,
        clip_grad=optim.clip_grad,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=True,
        overlap_param_gather=parallel.overlap_param_gather,
    )
    return get_megatron_optimizer(config, model_chunks, use_gloo_process_groups=torch.cuda.is_available())


def build_schedule(
    optim: OptimConfig, optimizer: MegatronOptimizer, total_steps: int
) -> OptimizerParamScheduler:
    """Learning rate by optimizer step: linear warm-up, then the decay style, then min_lr."""
    decay_steps = optim.lr_decay_steps or max(1, total_steps)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=optim.lr,
        min_lr=optim.min_lr,
        # A run shorter than its warm-up (a trial) still has a schedule.
        lr_warmup_steps=min(optim.lr_warmup_steps, decay_steps - 1),
        lr_decay_steps=decay_steps,
        lr_decay_style=optim.lr_decay_style,
        start_wd=optim.weight_decay,
        end_wd=optim.weight_decay,
        wd_incr_steps=decay_steps,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
        wsd_decay_steps=optim.lr_wsd_decay_steps or max(1, decay_steps // 10),
        lr_wsd_decay_style=optim.lr_wsd_decay_style,
    )
