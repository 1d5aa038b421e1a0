"""megatron-core's optimizer from the configuration."""

from __future__ import annotations

from types import MappingProxyType

import megatron.core.optimizer as mcore_optimizer
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    distrib_optimizer,
    get_megatron_optimizer,
)

from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.config.trainer_schema import Fp16Config
from recipes.optim import gradients
from recipes.optim.adamw import AdamW
from recipes.optim.groups import Names, adamw_overrides, muon_groups
from recipes.optim.layer_wise import MuonAdamW
from recipes.optim.matrices import matrix_layout
from recipes.optim.muon import Muon
from recipes.optim.non_finite import skip_non_finite_steps


def uses_distributed_optimizer(optim: OptimConfig) -> bool:
    """Whether megatron-core's DDP must be made for its distributed optimizer.

    That optimizer cuts gradients at shard boundaries, inside a matrix too; Muon needs whole matrices.
    """
    return optim.name != "muon"


def build_optimizer(
    optim: OptimConfig,
    parallel: ParallelConfig,
    dtype: torch.dtype,
    model_chunks: list[DistributedDataParallel],
    names: Names = MappingProxyType({}),
    fp16: Fp16Config = Fp16Config(),  # noqa: B008
) -> MegatronOptimizer:
    """The configured optimizer over megatron-core's DDP chunks, its state sharded over data-parallel ranks.

    adamw: always the distributed optimizer (ZeRO-1), even with one process: megatron-core's other optimizers
    write checkpoints in a form that it cannot read, so a run could not change its layout.

    Args:
        names: parameters -> their names in checkpoints, which optim.groups go by; where one is missing, its
            name in the model counts.
        fp16: how the loss scale moves, where ``dtype`` is fp16.
    """
    gradients.install()
    # Ours replaces FusedAdam: Transformer Engine's cannot leave out a step without asking the host, and may
    # be absent. Like it, ours counts steps per parameter group, which megatron-core can save and reshard.
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
        fp16=dtype == torch.float16,
        initial_loss_scale=fp16.initial_loss_scale,
        min_loss_scale=fp16.min_loss_scale,
        loss_scale_window=fp16.loss_scale_window,
        hysteresis=fp16.hysteresis,
        params_dtype=dtype,
        use_distributed_optimizer=uses_distributed_optimizer(optim),
        overlap_param_gather=parallel.overlap_param_gather,
    )
    if optim.name == "muon":
        optimizer: MegatronOptimizer = _build_muon(optim, config, model_chunks, names)
    else:
        optimizer = get_megatron_optimizer(
            config,
            model_chunks,
            config_overrides=adamw_overrides(optim, model_chunks[0].module, names),
            use_gloo_process_groups=torch.cuda.is_available(),
        )
    skip_non_finite_steps(optimizer)
    return optimizer


def _build_muon(
    optim: OptimConfig,
    config: OptimizerConfig,
    model_chunks: list[DistributedDataParallel],
    names: Names,
) -> MuonAdamW:
    if any(chunk.ddp_config.use_distributed_optimizer for chunk in model_chunks):
        raise ValueError("Muon needs whole reduced gradients: DDP without use_distributed_optimizer")
    matrices, others = muon_groups(optim, config, model_chunks, names)
    muon = Muon(
        matrices,
        lr=optim.lr,
        momentum=optim.muon_momentum,
        iterations=optim.muon_num_iterations,
        beta2=optim.muon_beta2,
        weight_decay=optim.weight_decay,
    )
    adamw = AdamW(
        others, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), eps=optim.eps, weight_decay=0.0
    )
    with_muon = {p for group in matrices for p in group["params"]}
    layouts = {
        p: matrix_layout(name, p, chunk.config)
        for chunk in model_chunks
        for name, p in chunk.module.named_parameters()
        if p in with_muon
    }
    return MuonAdamW(muon, adamw, config, layouts)
