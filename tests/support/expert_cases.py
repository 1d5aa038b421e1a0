"""A small mixture-of-experts model of megatron-core's own, trained and saved in a pool worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.config.world import launched_world
from tests.support.engine import GPTModel, process_groups, torch

STEPS = 6


def build_moe(parallel: ParallelConfig) -> GPTModel:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.transformer import TransformerConfig

    torch.manual_seed(1234)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=64,
        use_cpu_initialization=True,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        normalization="RMSNorm",
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        bias_activation_fusion=False,
        num_moe_experts=4,
        moe_router_topk=2,
        moe_token_dispatcher_type="alltoall",
        moe_aux_loss_coeff=1e-2,
        moe_grouped_gemm=False,
        moe_layer_freq=[1, 0],
    )
    spec = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization="RMSNorm")
    return GPTModel(config, spec, vocab_size=128, max_sequence_length=32, position_embedding_type="rope")


def train_moe(parallel: ParallelConfig, directory: str) -> dict[str, Any]:
    """Losses of a few steps, then a checkpoint, a damaged model, and the losses after loading."""
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from recipes.checkpoint.training import OPTIMIZER_METADATA
    from recipes.optim.build import build_optimizer

    world = launched_world()
    with process_groups(parallel, world):
        gpt = build_moe(parallel)
        ddp = DistributedDataParallel(
            gpt.config, DistributedDataParallelConfig(use_distributed_optimizer=True), gpt
        )
        optimizer = build_optimizer(OptimConfig(lr=1e-2), parallel, torch.float32, [ddp])
        gpt.config.finalize_model_grads_func = finalize_model_grads
        gpt.config.grad_scale_func = optimizer.scale_loss
        # Expert parallelism shares the data-parallel ranks: each has samples of its own.
        text = torch.randint(128, (4, 33), generator=torch.Generator().manual_seed(0))
        mine = text[parallel_state.get_data_parallel_rank() :: parallel_state.get_data_parallel_world_size()]

        def loss_of(losses: Any) -> Any:
            loss = losses.float().mean()
            return loss, {"loss": loss.detach()}

        def forward_step(_: Any, model: Any) -> Any:
            positions = torch.arange(32).expand(len(mine), -1)
            return model(mine[:, :-1].contiguous(), positions, None, labels=mine[:, 1:].contiguous()), loss_of

        def step(forward_only: bool = False) -> float:
            ddp.zero_grad_buffer()
            optimizer.zero_grad()
            (output,) = get_forward_backward_func()(
                forward_step_func=forward_step,
                data_iterator=None,
                model=[ddp],
                num_microbatches=1,
                seq_length=32,
                micro_batch_size=len(mine),
                forward_only=forward_only,
            )
            if not forward_only:
                optimizer.step()
            total = output["loss"].clone()
            torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group())
            return total.item() / parallel_state.get_data_parallel_world_size()

        losses = [step() for _ in range(STEPS)]
        path = Path(directory)
        if world.rank == 0:
            path.mkdir()
        torch.distributed.barrier()
        state = gpt.sharded_state_dict()
        dist_checkpointing.save(
            {"model": state, "optimizer": optimizer.sharded_state_dict(state, metadata=OPTIMIZER_METADATA)},
            directory,
        )
        continued = [step() for _ in range(2)]
        state = gpt.sharded_state_dict()
        loaded = dist_checkpointing.load(
            {
                "model": state,
                "optimizer": optimizer.sharded_state_dict(
                    state, is_loading=True, metadata=OPTIMIZER_METADATA
                ),
            },
            directory,
        )
        gpt.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])
        return {
            "losses": losses,
            "continued": continued,
            "again": [step() for _ in range(2)],
            "experts": len([name for name, _ in gpt.named_parameters() if "local_experts" in name]),
        }
