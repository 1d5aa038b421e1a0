"""Cases about stored models that pool workers run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMMON = {
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 440,
    "max_position_embeddings": 32,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "biases": {
        "normalization": "LayerNorm",
        "add_bias_linear": True,
        "activation": "gelu",
        "position_embedding_type": "learned_absolute",
        "share_embeddings_and_output_weights": True,
    },
    "experts": {
        "num_moe_experts": 4,
        "moe_ffn_hidden_size": 32,
        "first_k_dense_replace": 1,
        "moe_shared_expert_intermediate_size": 64,
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "qk_layernorm": True,
    },
    "all_experts": {"num_moe_experts": 4},
    "uneven_experts": {"num_moe_experts": 3},
    "param_moe": {
        "family": "param_moe",
        "activation": "gelu",
        "normalization": "LayerNorm",
        "add_bias_linear": True,
        "position_embedding_type": "learned_absolute",
        "num_moe_experts": 4,
        "moe_layer_freq": 2,
    },
    "gemma3": {
        "family": "gemma3",
        "activation": "geglu",
        "qk_layernorm": True,
        "share_embeddings_and_output_weights": True,
    },
}


def _build(name: str, layout: dict[str, int], **more: Any) -> Any:
    from recipes.config.schema import ParallelConfig
    from recipes.config.world import launched_world
    from recipes.families.model_config import ModelConfig
    from recipes.model.build import build_gpt_model
    from recipes.parallel.setup import init_model_parallel, init_process_group, resolve_dtype

    model, parallel = ModelConfig(**(COMMON | MODELS[name] | more)), ParallelConfig(**layout)
    init_process_group(launched_world())
    init_model_parallel(parallel, seed=1)
    return model, build_gpt_model(model, parallel, resolve_dtype("fp32"))


def write_case(
    name: str, directory: str, layout: dict[str, int], tokenizer: str, vocab_size: int = COMMON["vocab_size"]
) -> None:
    """Writes directory/name.nemo with initial weights of seed 5, which no layout changes."""
    from recipes.checkpoint.nemo.classic_config import to_nemo_config
    from recipes.checkpoint.nemo.nemo_file import new_tokenizer_name, save_nemo
    from recipes.model.init import initialize_weights

    model, gpt = _build(name, layout, vocab_size=vocab_size)
    initialize_weights(gpt, model, 5)
    config = to_nemo_config(
        model,
        tokenizer_file=new_tokenizer_name(Path(tokenizer)),
        seq_length=32,
        micro_batch_size=1,
        global_batch_size=1,
        precision=32,
        seed=1,
        document_start=None,
    )
    save_nemo(Path(directory) / f"{name}.nemo", gpt, config, Path(tokenizer))


def load_case(name: str, path: str, layout: dict[str, int]) -> int:
    """Fills a model from the file; every element must be what initialisation gives. Counts them."""
    import torch

    from recipes.checkpoint.open import open_stored_model
    from recipes.checkpoint.stored.fill import load_weights
    from recipes.model.init import initialize_weights, sharded_tensors

    model, gpt = _build(name, layout)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.fill_(float("nan"))
    with open_stored_model(Path(path)) as source:
        assert source.model.family == model.family and source.model.num_layers == model.num_layers
        load_weights(source, gpt)
    loaded = [shard.data.clone() for shard in sharded_tensors(gpt)]
    initialize_weights(gpt, model, 5)
    compared = 0
    for shard, numbers in zip(sharded_tensors(gpt), loaded, strict=True):
        assert torch.equal(shard.data, numbers), shard.key
        compared += numbers.numel()
    assert not any(torch.isnan(parameter).any() for parameter in gpt.parameters())
    return compared
