"""Refuses impossible settings before anything heavy is imported.

Every message names the key, its value and the fix.
"""

from __future__ import annotations

import re
from pathlib import Path

from recipes.config.checks import not_negative, one_of, positive, refuse
from recipes.config.megatron_fields import TRANSFORMER_CONFIG_FIELDS
from recipes.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    PretrainConfig,
    TrainerConfig,
)
from recipes.config.validate_jobs import PRECISIONS
from recipes.config.world import launched_world
from recipes.data.indexed import Sidecar, check_prefix
from recipes.errors import UserError
from recipes.model.accounting import kv_channels, num_query_groups, padded_vocab_size

FAMILIES = ("llama",)
DECAY_STYLES = ("cosine", "linear", "WSD", "constant", "inverse-square-root")
WSD_STYLES = ("linear", "cosine", "exponential", "minus_sqrt")

# TransformerConfig fields that our typed keys, or the run itself, decide.
OWNED_MEGATRON_FIELDS = {
    "num_layers": "model.num_layers",
    "hidden_size": "model.hidden_size",
    "ffn_hidden_size": "model.ffn_hidden_size",
    "num_attention_heads": "model.num_attention_heads",
    "num_query_groups": "model.num_query_groups",
    "kv_channels": "model.kv_channels",
    "normalization": "model.normalization",
    "layernorm_epsilon": "model.layernorm_epsilon",
    "gated_linear_unit": "model.activation",
    "activation_func": "model.activation",
    "add_bias_linear": "model.add_bias_linear",
    "init_method_std": "model.init_method_std",
    "hidden_dropout": "model.hidden_dropout",
    "attention_dropout": "model.attention_dropout",
    "tensor_model_parallel_size": "parallel.tensor_model_parallel_size",
    "pipeline_model_parallel_size": "parallel.pipeline_model_parallel_size",
    "expert_model_parallel_size": "parallel.expert_model_parallel_size",
    "sequence_parallel": "parallel.sequence_parallel",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "params_dtype": "trainer.precision",
    "pipeline_dtype": "trainer.precision",
    "perform_initialization": "model.init_method_std",
    "init_method": "model.init_method_std",
    "output_layer_init_method": "model.use_scaled_init_method",
    "calculate_per_token_loss": "data.eod_mask_loss",
    "embedding_init_method": "model.init_method_std",
    "embedding_init_method_std": "model.init_method_std",
}

# TransformerConfig fields that only take effect with layers or process groups that no family here has:
# megatron-core would take them and train something else.
UNUSED_MEGATRON_FIELDS = (
    "add_qkv_bias",
    "attention_output_gate",
    "context_parallel_size",
    "experimental_attention_variant",
    "expert_tensor_parallel_size",
    "heterogeneous_block_specs",
    "is_hybrid_model",
    "mtp_num_layers",
    "multi_latent_attention",
    "num_moe_experts",
    "pipeline_model_parallel_layout",
    "qk_l2_norm",
    "qk_layernorm",
    "virtual_pipeline_model_parallel_size",
)


def validate_pretrain(config: PretrainConfig) -> int:
    """Checks everything that can be checked without torch; returns the data-parallel size.

    Raises:
        UserError: with the key, the value and the fix.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,-]*", config.name):
        refuse("name", repr(config.name), "use letters, digits, '.', '_' and '-': it names a directory")
    if config.resume not in ("auto", "never"):
        refuse("resume", config.resume, "use auto or never")
    if not 0 <= config.seed < 2**31:
        refuse("seed", config.seed, "must lie between 0 and 2147483647")
    validate_model(config.model)
    validate_optim(config.optim)
    data_parallel_size = validate_parallel(config.parallel, config.model, check_launcher=not config.dry_run)
    validate_trainer(config.trainer, data_parallel_size)
    validate_data(config.data)
    if config.data.seq_length > config.model.max_position_embeddings:
        refuse(
            "data.seq_length",
            config.data.seq_length,
            f"longer than model.max_position_embeddings={config.model.max_position_embeddings}; lower it",
        )
    tp = config.parallel.tensor_model_parallel_size
    if config.parallel.sequence_parallel and config.data.seq_length % tp:
        refuse("data.seq_length", config.data.seq_length, f"sequence_parallel needs a multiple of {tp}")
    if not config.dry_run:
        sidecars = validate_files(config.data)
        validate_tokenizer(config, sidecars)
    return data_parallel_size


def validate_model(model: ModelConfig) -> None:
    """Checks the architecture by itself."""
    if model.family not in FAMILIES:
        refuse("model.family", model.family, f"known families: {', '.join(FAMILIES)}")
    for key in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size"):
        positive(f"model.{key}", getattr(model, key))
    positive("model.make_vocab_size_divisible_by", model.make_vocab_size_divisible_by)
    positive("model.max_position_embeddings", model.max_position_embeddings)
    for key in ("num_query_groups", "kv_channels"):
        value = getattr(model, key)
        if value is not None:
            positive(f"model.{key}", value)
    for key in ("layernorm_epsilon", "rotary_base"):
        positive(f"model.{key}", getattr(model, key))
    not_negative("model.init_method_std", model.init_method_std)
    if not 0 < model.rotary_percent <= 1:
        refuse("model.rotary_percent", model.rotary_percent, "must be above 0 and at most 1")
    heads = model.num_attention_heads
    if model.kv_channels is None and model.hidden_size % heads:
        refuse(
            "model.num_attention_heads",
            heads,
            f"does not divide model.hidden_size={model.hidden_size}; choose a divisor or set kv_channels",
        )
    if heads % num_query_groups(model):
        refuse("model.num_query_groups", num_query_groups(model), f"must divide num_attention_heads={heads}")
    if model.position_embedding_type == "rope" and kv_channels(model) % 2:
        refuse("model.kv_channels", kv_channels(model), "rotary embeddings need an even head width")
    one_of("model.normalization", model.normalization, ("RMSNorm", "LayerNorm"))
    one_of("model.activation", model.activation, ("swiglu", "gelu"))
    one_of("model.position_embedding_type", model.position_embedding_type, ("rope", "learned_absolute"))
    for key in ("hidden_dropout", "attention_dropout"):
        if not 0.0 <= getattr(model, key) < 1.0:
            refuse(f"model.{key}", getattr(model, key), "must be at least 0 and below 1")
    for name in model.megatron:
        if name in OWNED_MEGATRON_FIELDS:
            refuse(
                f"model.megatron.{name}", model.megatron[name], f"set {OWNED_MEGATRON_FIELDS[name]} instead"
            )
        if name not in TRANSFORMER_CONFIG_FIELDS:
            refuse(
                f"model.megatron.{name}",
                model.megatron[name],
                "megatron-core's TransformerConfig has no such field",
            )
        if name in UNUSED_MEGATRON_FIELDS or name.startswith("moe_"):
            refuse(
                f"model.megatron.{name}",
                model.megatron[name],
                f"the {model.family} family does not use it; remove it",
            )


def validate_optim(optim: OptimConfig) -> None:
    """Checks optimizer and schedule."""
    one_of("optim.name", optim.name, ("adamw",))
    one_of("optim.lr_decay_style", optim.lr_decay_style, DECAY_STYLES)
    one_of("optim.lr_wsd_decay_style", optim.lr_wsd_decay_style, WSD_STYLES)
    positive("optim.lr", optim.lr)
    positive("optim.eps", optim.eps)
    if not 0 <= optim.min_lr <= optim.lr:
        refuse("optim.min_lr", optim.min_lr, f"must lie between 0 and optim.lr={optim.lr}")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        refuse("optim.betas", list(optim.betas), "give two numbers, each at least 0 and below 1")
    for key in ("weight_decay", "clip_grad", "lr_warmup_steps"):
        not_negative(f"optim.{key}", getattr(optim, key))
    for key in ("lr_decay_steps", "lr_wsd_decay_steps"):
        value = getattr(optim, key)
        if value is not None:
            positive(f"optim.{key}", value)
    if optim.lr_decay_steps is not None and optim.lr_warmup_steps >= optim.lr_decay_steps:
        refuse(
            "optim.lr_warmup_steps",
            optim.lr_warmup_steps,
            f"must be below lr_decay_steps={optim.lr_decay_steps}",
        )
    if optim.lr_wsd_decay_steps is not None and optim.lr_decay_style != "WSD":
        refuse(
            "optim.lr_wsd_decay_steps", optim.lr_wsd_decay_steps, "would be ignored: needs lr_decay_style=WSD"
        )
    if optim.lr_wsd_decay_steps is not None and optim.lr_decay_steps is not None:
        longest = optim.lr_decay_steps - optim.lr_warmup_steps
        if optim.lr_wsd_decay_steps > longest:
            refuse(
                "optim.lr_wsd_decay_steps",
                optim.lr_wsd_decay_steps,
                f"must be at most lr_decay_steps - lr_warmup_steps = {longest}",
            )


def validate_parallel(parallel: ParallelConfig, model: ModelConfig, *, check_launcher: bool) -> int:
    """Checks the layout against the model and the launcher; returns the data-parallel size."""
    for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"):
        positive(f"parallel.{key}", getattr(parallel, key))
    if parallel.world_size is not None:
        positive("parallel.world_size", parallel.world_size)
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    divisible = {
        "model.num_attention_heads": model.num_attention_heads,
        "model.num_query_groups": num_query_groups(model),
        "model.ffn_hidden_size": model.ffn_hidden_size,
        "model.hidden_size": model.hidden_size,
        "padded vocabulary": padded_vocab_size(model),
    }
    for key, value in divisible.items():
        if value % tp:
            refuse(
                "parallel.tensor_model_parallel_size", tp, f"does not divide {key}={value}; choose a divisor"
            )
    if model.num_layers % pp:
        refuse(
            "parallel.pipeline_model_parallel_size",
            pp,
            f"does not divide model.num_layers={model.num_layers}",
        )
    if parallel.expert_model_parallel_size > 1:
        refuse(
            "parallel.expert_model_parallel_size",
            parallel.expert_model_parallel_size,
            f"the {model.family} family has no experts; leave it at 1",
        )
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
            f"but {launched} process(es) were launched; use torchrun --nproc-per-node, or leave it null",
        )
    if world_size % (tp * pp):
        refuse(
            "parallel",
            f"tensor {tp} x pipeline {pp}",
            f"needs a multiple of {tp * pp} processes, there are {world_size}; "
            f"launch with torchrun --nproc-per-node {tp * pp}",
        )
    return world_size // (tp * pp)


def validate_trainer(trainer: TrainerConfig, data_parallel_size: int) -> None:
    """Checks batches, lengths and intervals."""
    one_of("trainer.precision", trainer.precision, PRECISIONS)
    positive("trainer.micro_batch_size", trainer.micro_batch_size)
    positive("trainer.global_batch_size", trainer.global_batch_size)
    chunk = trainer.micro_batch_size * data_parallel_size
    if trainer.global_batch_size % chunk:
        refuse(
            "trainer.global_batch_size",
            trainer.global_batch_size,
            f"must be a multiple of micro_batch_size x data-parallel size = "
            f"{trainer.micro_batch_size} x {data_parallel_size} = {chunk}",
        )
    if trainer.max_steps is None and trainer.max_tokens is None:
        raise UserError("trainer.max_steps=null: set trainer.max_steps or trainer.max_tokens")
    if trainer.max_steps is not None and trainer.max_steps < 0:
        refuse("trainer.max_steps", trainer.max_steps, "must not be negative; 0 writes the untrained model")
    for key in (
        "max_tokens",
        "log_every_n_steps",
        "val_check_interval",
        "limit_val_batches",
        "num_threads",
        "peak_tflops",
    ):
        value = getattr(trainer, key)
        if value is not None:
            positive(f"trainer.{key}", value)
    if trainer.max_time is not None:
        parse_duration(trainer.max_time)
    if trainer.checkpoint.every_n_steps is not None:
        positive("trainer.checkpoint.every_n_steps", trainer.checkpoint.every_n_steps)
    positive("trainer.checkpoint.keep_last", trainer.checkpoint.keep_last)


def parse_duration(text: str) -> float:
    """Seconds of ``DD:HH:MM:SS`` or ``HH:MM:SS``."""
    match = re.fullmatch(r"(?:(\d+):)?(\d+):(\d{1,2}):(\d{1,2})", text)
    if match is None:
        refuse("trainer.max_time", repr(text), "write DD:HH:MM:SS or HH:MM:SS, for example 00:15:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if not days * 86400 + hours * 3600 + minutes * 60 + seconds:
        refuse("trainer.max_time", repr(text), "must be longer than zero")
    return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def validate_data(data: DataConfig) -> None:
    """Checks what can be said about the data without reading them."""
    positive("data.seq_length", data.seq_length)
    not_negative("data.num_workers", data.num_workers)
    for name, source in data.train.items():
        not_negative(f"data.train.{name}.weight", source.weight)
    if data.train and not any(source.weight > 0 for source in data.train.values()):
        raise UserError("data.train: every weight is 0; give at least one source a positive weight")


def validate_files(data: DataConfig) -> dict[str, Sidecar]:
    """Checks every source and held-out set on disk; returns their sidecars by name."""
    if not data.train:
        raise UserError(
            "data.train={}: no training text; add sources, for example "
            "'data.train={en:{path:data/en,weight:0.75},hi:{path:data/hi,weight:0.25}}'"
        )
    sidecars = {}
    for name, source in data.train.items():
        if source.weight > 0:
            sidecars[f"data.train.{name}"] = check_prefix(source.path)
    for name, path in data.valid.items():
        sidecars[f"data.valid.{name}"] = check_prefix(path)
    for key, sidecar in sidecars.items():
        needed = data.seq_length + 1
        if sidecar.tokens < needed:
            refuse(key, sidecar.prefix, f"holds {sidecar.tokens} tokens, one sample needs {needed}; add text")
    return sidecars


def validate_tokenizer(config: PretrainConfig, sidecars: dict[str, Sidecar]) -> None:
    """The tokenizer exists, fits the model's vocabulary, and is the one that the data was made with."""
    from recipes.data.tokenizer import load_tokenizer

    path = config.tokenizer.model
    if path is None:
        raise UserError("tokenizer.model=null: name the SentencePiece model that the data was tokenized with")
    if not Path(path).is_file():
        refuse("tokenizer.model", path, "no such file; train one with python -m tools.train_tokenizer")
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size > config.model.vocab_size:
        refuse(
            "tokenizer.model",
            path,
            f"has {tokenizer.vocab_size} pieces, more than model.vocab_size={config.model.vocab_size}; "
            f"set model.vocab_size={tokenizer.vocab_size}",
        )
    for key, sidecar in sidecars.items():
        if sidecar.tokenizer_sha256 is not None and sidecar.tokenizer_sha256 != tokenizer.sha256:
            refuse(key, sidecar.prefix, f"was tokenized with another tokenizer than tokenizer.model={path}")
