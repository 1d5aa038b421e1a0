"""Refuses layouts that are impossible for the model or the launched processes."""

from __future__ import annotations

from recipes.checks import one_of, positive, refuse
from recipes.config.schema import ParallelConfig
from recipes.config.stages import stage_sizes
from recipes.config.world import launched_world
from recipes.counts import counted
from recipes.families.family import family_of, layer_windows
from recipes.families.model_config import ModelConfig, expert_width, num_query_groups, padded_vocab_size

RECOMPUTE_MODULES = ("core_attn", "mlp", "moe", "moe_act", "layernorm", "shared_experts")
CONTEXT_KINDS = ("p2p", "all_gather", "a2a")
"""megatron-core's a2a+p2p needs process groups that a run here does not make."""


def validate_parallel(parallel: ParallelConfig, model: ModelConfig, *, check_launcher: bool) -> int:
    """Checks the layout against the model and the launcher; returns the data-parallel size."""
    for key in (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
        "expert_model_parallel_size",
    ):
        positive(f"parallel.{key}", getattr(parallel, key))
    positive("parallel.rendezvous_timeout_s", parallel.rendezvous_timeout_s)
    _validate_family_layout(parallel, model)
    if parallel.world_size is not None:
        positive("parallel.world_size", parallel.world_size)
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    cp = parallel.context_parallel_size
    divisible = {
        "model.num_attention_heads": model.num_attention_heads,
        "model.num_query_groups": num_query_groups(model),
        "model.ffn_hidden_size": model.ffn_hidden_size,
        "model.hidden_size": model.hidden_size,
        "padded vocabulary": padded_vocab_size(model),
        "model.moe_shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size or 0,
    }
    for key, value in divisible.items():
        if value % tp:
            refuse(
                "parallel.tensor_model_parallel_size", tp, f"does not divide {key}={value}; choose a divisor"
            )
    _validate_stages(parallel, model)
    _validate_recompute(parallel, model)
    _validate_context(parallel, model)
    if parallel.sequence_parallel and tp == 1:
        refuse("parallel.sequence_parallel", True, "needs tensor_model_parallel_size > 1")
    if parallel.overlap_param_gather and not parallel.overlap_grad_reduce:
        refuse("parallel.overlap_param_gather", True, "needs parallel.overlap_grad_reduce=true")
    launched = launched_world().size
    world_size = parallel.world_size or launched
    if check_launcher and world_size != launched:
        refuse(
            "parallel.world_size",
            world_size,
            f"but {counted(launched, 'process was', 'processes were')} launched; use torchrun "
            "--nproc-per-node, or leave it null",
        )
    if world_size % (tp * pp * cp):
        refuse(
            "parallel",
            f"tensor {tp} x pipeline {pp} x context {cp}",
            f"needs a multiple of {tp * pp * cp} processes, there are {world_size}; "
            + (
                f"launch with torchrun --nproc-per-node {tp * pp * cp}"
                if parallel.world_size is None
                else "take as many (parallel.world_size; cluster.nodes of a cluster), or split the model less"
            ),
        )
    data_parallel_size = world_size // (tp * pp * cp)
    _validate_expert_layout(parallel, model, world_size)
    return data_parallel_size


def _validate_family_layout(parallel: ParallelConfig, model: ModelConfig) -> None:
    for key, reason in family_of(model).refused_layouts.items():
        if getattr(parallel, key) != 1:
            refuse(f"parallel.{key}", getattr(parallel, key), f"{model.family}: {reason}; leave it at 1")


def _validate_stages(parallel: ParallelConfig, model: ModelConfig) -> None:
    """Every pipeline stage must get layers, and those without a count of their own equally many."""
    pp, left = parallel.pipeline_model_parallel_size, model.num_layers
    stages_left = pp
    for key in ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"):
        layers = getattr(parallel, key)
        if layers is None:
            continue
        if pp == 1:
            refuse(f"parallel.{key}", layers, "would be ignored: pipeline_model_parallel_size is 1")
        positive(f"parallel.{key}", layers)
        left, stages_left = left - layers, stages_left - 1
        if left < stages_left or (stages_left == 0 and left):
            refuse(
                f"parallel.{key}", layers, f"does not fit model.num_layers={model.num_layers} in {pp} stages"
            )
    if stages_left and left % stages_left:
        refuse(
            "parallel.pipeline_model_parallel_size",
            pp,
            f"does not divide model.num_layers={model.num_layers}"
            if stages_left == pp
            else f"{left} layers are left for {stages_left} stages; choose other first and last stages",
        )


def _validate_recompute(parallel: ParallelConfig, model: ModelConfig) -> None:
    granularity = parallel.recompute_granularity
    if granularity is not None:
        one_of("parallel.recompute_granularity", granularity, ("full", "selective"))
    for key in ("recompute_method", "recompute_num_layers"):
        value = getattr(parallel, key)
        if value is not None and granularity != "full":
            refuse(f"parallel.{key}", value, "would be ignored: needs recompute_granularity=full")
        if value is None and granularity == "full":
            fix = "uniform or block" if key == "recompute_method" else "1 or more"
            refuse(f"parallel.{key}", value, f"recompute_granularity=full needs it; set {fix}")
    if granularity == "full":
        one_of("parallel.recompute_method", str(parallel.recompute_method), ("uniform", "block"))
        chunk = parallel.recompute_num_layers or 0
        positive("parallel.recompute_num_layers", chunk)
        sizes = stage_sizes(model, parallel)
        if parallel.recompute_method == "uniform" and any(layers % chunk for layers in sizes):
            refuse("parallel.recompute_num_layers", chunk, f"must divide the layers of every stage, {sizes}")
    if parallel.recompute_modules and granularity != "selective":
        refuse(
            "parallel.recompute_modules",
            parallel.recompute_modules,
            "would be ignored: needs recompute_granularity=selective",
        )
    for module in parallel.recompute_modules:
        one_of("parallel.recompute_modules", module, RECOMPUTE_MODULES)
        if module in ("moe", "moe_act", "shared_experts") and model.num_moe_experts is None:
            refuse("parallel.recompute_modules", module, "the model has no experts; remove it")
        if module == "shared_experts" and model.moe_shared_expert_intermediate_size is None:
            refuse("parallel.recompute_modules", module, "the model has no shared experts; remove it")


def _validate_context(parallel: ParallelConfig, model: ModelConfig) -> None:
    """model.megatron.cp_comm_type: how attention sees the parts of a sequence that other ranks hold."""
    key, cp = "model.megatron.cp_comm_type", parallel.context_parallel_size
    if "cp_comm_type" not in model.megatron:
        return
    kind = model.megatron["cp_comm_type"]
    if cp == 1:
        refuse(key, kind, "would be ignored: parallel.context_parallel_size is 1")
    # Lists are refused too: megatron-core 0.16.1 indexes them from 1, so the last layer finds no entry.
    one_of(key, kind, CONTEXT_KINDS)
    if kind == "p2p" and any(layer_windows(model)):
        refuse(key, kind, "the ring has no sliding windows; leave it out (all_gather), or set a2a")
    groups = num_query_groups(model) // parallel.tensor_model_parallel_size
    if kind == "a2a" and groups % cp:
        refuse(key, kind, f"{groups} key-value heads of a rank cannot be shared out to {cp}; set all_gather")


def _validate_expert_layout(parallel: ParallelConfig, model: ModelConfig, world_size: int) -> None:
    ep, etp = parallel.expert_model_parallel_size, parallel.expert_tensor_parallel_size
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    if model.num_moe_experts is None:
        if ep > 1:
            refuse("parallel.expert_model_parallel_size", ep, "the model has no experts; leave it at 1")
        if etp is not None:
            refuse("parallel.expert_tensor_parallel_size", etp, "the model has no experts; leave it out")
        return
    if model.num_moe_experts % ep:
        refuse(
            "parallel.expert_model_parallel_size", ep, f"must divide num_moe_experts={model.num_moe_experts}"
        )
    if tp > 1 and not parallel.sequence_parallel:
        refuse(
            "parallel.tensor_model_parallel_size", tp, "experts need parallel.sequence_parallel=true with it"
        )
    if etp is not None:
        positive("parallel.expert_tensor_parallel_size", etp)
    if model.add_bias_linear and (etp or tp) > 1:
        refuse(
            "parallel.expert_tensor_parallel_size",
            etp,
            "experts with biases cannot be split: megatron-core would add a bias once per part; set it to 1",
        )
    if expert_width(model) % (etp or tp):
        width = "ffn_hidden_size" if model.moe_ffn_hidden_size is None else "moe_ffn_hidden_size"
        refuse(
            "parallel.expert_tensor_parallel_size" if etp else "parallel.tensor_model_parallel_size",
            etp or tp,
            f"does not divide model.{width}={expert_width(model)}; "
            + ("choose a divisor" if etp else "choose a divisor, or set expert_tensor_parallel_size"),
        )
    inner = (etp or tp) * ep * pp
    if world_size % inner:
        refuse(
            "parallel.expert_model_parallel_size",
            ep,
            f"expert tensor {etp or tp} x expert {ep} x pipeline {pp} must divide {world_size} processes",
        )
