"""Which layer is what: windows and experts by layer number. No torch here."""

from __future__ import annotations

from recipes.config.schema import ModelConfig, ParallelConfig


def layer_windows(model: ModelConfig) -> list[int | None]:
    """For each layer the tokens it attends to, the query's own among them; None: all before it."""
    if model.window_size is None or model.window_pattern is None:
        return [None] * model.num_layers
    pattern = model.window_pattern
    windows = [
        model.window_size if pattern[layer % len(pattern)] == "S" else None
        for layer in range(model.num_layers)
    ]
    if model.family == "nano_hindi":
        windows[-1] = None  # Its last layer sees everything, wherever the pattern ends.
    return windows


def moe_layers(model: ModelConfig) -> list[bool]:
    """For each layer whether it is a mixture of experts."""
    return [
        model.num_moe_experts is not None
        and layer >= model.first_k_dense_replace
        and layer % model.moe_layer_freq == 0
        for layer in range(model.num_layers)
    ]


# megatron-core's own routers draw for these.
RANDOM_MEGATRON_FIELDS = ("moe_input_jitter_eps", "moe_router_force_load_balancing")


def draws_random_numbers(model: ModelConfig) -> bool:
    """Whether a training step draws any: for dropout, or in routers."""
    dropout = model.hidden_dropout > 0 or model.attention_dropout > 0
    return (
        dropout
        or model.family == "param_moe"
        or any(model.megatron.get(field) for field in RANDOM_MEGATRON_FIELDS)
    )


def value_embedding_layers(model: ModelConfig) -> list[bool]:
    """For each layer whether it adds a value embedding: nano_hindi's every other one, the last included."""
    return [
        model.family == "nano_hindi" and layer % 2 == (model.num_layers - 1) % 2
        for layer in range(model.num_layers)
    ]


def stage_sizes(model: ModelConfig, parallel: ParallelConfig) -> list[int]:
    """Layers of each pipeline stage; those with a count of their own come first."""
    first, last = parallel.num_layers_in_first_pipeline_stage, parallel.num_layers_in_last_pipeline_stage
    given = [layers for layers in (first, last) if layers is not None]
    others = parallel.pipeline_model_parallel_size - len(given)
    return given + [(model.num_layers - sum(given)) // others] * others if others else given
