"""What settings of NeMo, Megatron-LM, Lightning, transformers, nanochat and lm-eval are called here.

Only for hints in refusals: no foreign key is accepted. A key of several parts is looked up by its last one.
"""

from __future__ import annotations

from typing import NamedTuple


class Foreign(NamedTuple):
    ours: str | None
    """Our key; None: there is nothing to set."""
    note: str = ""
    """What differs, or why there is nothing to set."""


_LAUNCHER = "torchrun --nproc-per-node N or Slurm starts the processes; this key only says how many to expect"
_TOKENS_NOT_EPOCHS = (
    "runs are as long as their steps or tokens; dry_run=true shows the epochs of every source"
)
_ACCUMULATION = (
    "samples per optimizer step; gradients are accumulated over what micro_batch_size x ranks leaves"
)
_OPTIMIZER = "it is always sharded over the data-parallel ranks"
_BETAS = "both in one: optim.betas=[0.9,0.95]"

PRETRAIN = {
    # Processes and devices
    "devices": Foreign("parallel.world_size", _LAUNCHER),
    "num_nodes": Foreign("parallel.world_size", _LAUNCHER),
    "gpus": Foreign("parallel.world_size", _LAUNCHER),
    "accelerator": Foreign(None, "CUDA is used where there is any"),
    "strategy": Foreign(None, "the group parallel says how a run is spread"),
    "use_distributed_optimizer": Foreign(None, _OPTIMIZER),
    "zero_stage": Foreign(None, _OPTIMIZER),
    # Length, batches, intervals
    "max_epochs": Foreign("trainer.max_tokens", _TOKENS_NOT_EPOCHS),
    "num_train_epochs": Foreign("trainer.max_tokens", _TOKENS_NOT_EPOCHS),
    "epochs": Foreign("trainer.max_tokens", _TOKENS_NOT_EPOCHS),
    "train_iters": Foreign("trainer.max_steps"),
    "num_iterations": Foreign("trainer.max_steps"),
    "train_samples": Foreign("trainer.max_tokens", "samples x data.seq_length"),
    "target_param_data_ratio": Foreign("trainer.max_tokens"),
    "max_time_per_run": Foreign("trainer.max_time"),
    "exit_duration_in_mins": Foreign("trainer.max_time", "HH:MM:SS"),
    "accumulate_grad_batches": Foreign("trainer.global_batch_size", _ACCUMULATION),
    "gradient_accumulation_steps": Foreign("trainer.global_batch_size", _ACCUMULATION),
    "total_batch_size": Foreign("trainer.global_batch_size", "in samples, not in tokens"),
    "per_device_train_batch_size": Foreign("trainer.micro_batch_size"),
    "device_batch_size": Foreign("trainer.micro_batch_size"),
    "batch_size": Foreign("trainer.global_batch_size"),
    "rampup_batch_size": Foreign("phases", "phases=[{rampup_batch_size:[256,256,1.5M]}]"),
    "log_interval": Foreign("trainer.log_every_n_steps"),
    "logging_steps": Foreign("trainer.log_every_n_steps"),
    "report_to": Foreign("logger"),
    "create_tensorboard_logger": Foreign("logger", "logger=tensorboard"),
    "create_wandb_logger": Foreign("logger", "logger=wandb"),
    "wandb_logger_kwargs": Foreign("wandb"),
    "tensorboard_dir": Foreign("logger", "logger=tensorboard writes to <run directory>/tensorboard"),
    "wandb_project": Foreign("wandb.project"),
    "wandb_entity": Foreign("wandb.entity"),
    "wandb_exp_name": Foreign("name"),
    "check_val_every_n_epoch": Foreign("trainer.val_check_interval", "in steps"),
    "eval_interval": Foreign("trainer.val_check_interval"),
    "eval_steps": Foreign("trainer.val_check_interval"),
    "eval_every": Foreign("trainer.val_check_interval"),
    "eval_iters": Foreign("trainer.limit_val_batches"),
    "sample_every": Foreign("trainer.samples.every_n_steps"),
    "fast_dev_run": Foreign("dry_run"),
    # Numbers
    "bf16": Foreign("trainer.precision", "trainer.precision=bf16"),
    "native_amp_init_scale": Foreign("trainer.fp16.initial_loss_scale"),
    "native_amp_growth_interval": Foreign("trainer.fp16.loss_scale_window"),
    "accumulate_allreduce_grads_in_fp32": Foreign("trainer.grad_reduce_in_fp32"),
    "deterministic_mode": Foreign("trainer.deterministic"),
    "decoupled_lr": Foreign("optim.groups", "optim.embedding_lr, optim.head_lr, or by name"),
    "z_loss_multiplier": Foreign("optim.z_loss_coeff"),
    "megatron_amp_O2": Foreign("trainer.precision", "bf16 always keeps fp32 main weights"),
    "torch_compile": Foreign("trainer.compile"),
    # Checkpoints and names
    "exp_dir": Foreign("output_dir"),
    "explicit_log_dir": Foreign("output_dir"),
    "default_root_dir": Foreign("output_dir"),
    "save": Foreign("output_dir", "a run writes to <output_dir>/<name>"),
    "run": Foreign("name"),
    "run_name": Foreign("name"),
    "load": Foreign("init_from", "the same command resumes a run; this starts a new one from another"),
    "restore_from_path": Foreign("init_from"),
    "resume_if_exists": Foreign("resume"),
    "resume_from_checkpoint": Foreign("resume", "the same command resumes a run"),
    "every_n_train_steps": Foreign("trainer.checkpoint.every_n_steps"),
    "save_interval": Foreign("trainer.checkpoint.every_n_steps"),
    "save_steps": Foreign("trainer.checkpoint.every_n_steps"),
    "save_every": Foreign("trainer.checkpoint.every_n_steps"),
    "save_top_k": Foreign("trainer.checkpoint.keep_best"),
    "save_total_limit": Foreign("trainer.checkpoint.keep_last"),
    # Data
    "encoder_seq_length": Foreign("data.seq_length"),
    "max_seq_length": Foreign("data.seq_length"),
    "max_seq_len": Foreign("data.seq_length"),
    "block_size": Foreign("data.seq_length"),
    "data_prefix": Foreign("data.train", "'data.train={en:{path:PREFIX,weight:0.75}}'"),
    "data_path": Foreign("data.train", "'data.train={en:{path:PREFIX,weight:0.75}}'"),
    "train_data_path": Foreign("data.train", "'data.train={en:{path:PREFIX,weight:0.75}}'"),
    "split": Foreign("data.valid", "held-out sets are files of their own"),
    "splits_string": Foreign("data.valid", "held-out sets are files of their own"),
    "dataloader_num_workers": Foreign("data.num_workers"),
    "tokenizer_model": Foreign("tokenizer.model"),
    "tokenizer_name": Foreign("tokenizer.model", "a file or a directory on disk"),
    "tokenizer_type": Foreign("tokenizer.model", "what kind it is follows from the file"),
    "library": Foreign("tokenizer.model", "what kind it is follows from the file"),
    "vocab_file": Foreign("tokenizer.model"),
    # Optimizer
    "gradient_clip_val": Foreign("optim.clip_grad"),
    "max_grad_norm": Foreign("optim.clip_grad"),
    "learning_rate": Foreign("optim.lr"),
    "matrix_lr": Foreign("optim.lr", "with optim=muon"),
    "unembedding_lr": Foreign("optim.head_lr"),
    "adam_beta1": Foreign("optim.betas", _BETAS),
    "adam_beta2": Foreign("optim.betas", _BETAS),
    "adam_eps": Foreign("optim.eps"),
    "adam_epsilon": Foreign("optim.eps"),
    "lr_scheduler_type": Foreign("optim.lr_decay_style"),
    "warmup_steps": Foreign("optim.lr_warmup_steps"),
    "lr_warmup_iters": Foreign("optim.lr_warmup_steps"),
    "lr_warmup_samples": Foreign("optim.lr_warmup_tokens", "samples x data.seq_length"),
    "lr_warmup_fraction": Foreign("optim.lr_warmup_steps", "in steps, not as a share"),
    "warmup_ratio": Foreign("optim.lr_warmup_steps", "in steps, not as a share"),
    "lr_decay_iters": Foreign("optim.lr_decay_steps"),
    "lr_decay_samples": Foreign("optim.lr_decay_tokens", "samples x data.seq_length"),
    "lr_wsd_decay_iters": Foreign("optim.lr_wsd_decay_steps"),
    "warmdown_ratio": Foreign("optim.lr_wsd_decay_steps", "with lr_decay_style=WSD, in steps"),
    # Layout
    "activations_checkpoint_granularity": Foreign("parallel.recompute_granularity"),
    "activations_checkpoint_method": Foreign("parallel.recompute_method"),
    "activations_checkpoint_num_layers": Foreign("parallel.recompute_num_layers"),
    "recompute_activations": Foreign("parallel.recompute_granularity", "selective"),
    "gradient_checkpointing": Foreign("parallel.recompute_granularity"),
    "virtual_pipeline_model_parallel_size": Foreign(None, "stages hold one run of layers each"),
    # Model
    "depth": Foreign("model.num_layers"),
    "num_hidden_layers": Foreign("model.num_layers"),
    "intermediate_size": Foreign("model.ffn_hidden_size"),
    "num_key_value_heads": Foreign("model.num_query_groups"),
    "group_query_attention": Foreign("model.num_query_groups"),
    "head_dim": Foreign("model.kv_channels"),
    "norm_epsilon": Foreign("model.layernorm_epsilon"),
    "rms_norm_eps": Foreign("model.layernorm_epsilon"),
    "hidden_act": Foreign("model.activation"),
    "swiglu": Foreign("model.activation", "model.activation=swiglu"),
    "rope_theta": Foreign("model.rotary_base"),
    "rotary_percentage": Foreign("model.rotary_percent"),
    "use_rotary_position_embeddings": Foreign("model.position_embedding_type"),
    "bias": Foreign("model.add_bias_linear"),
    "disable_bias_linear": Foreign("model.add_bias_linear"),
    "tie_word_embeddings": Foreign("model.share_embeddings_and_output_weights"),
    "untie_embeddings_and_output_weights": Foreign("model.share_embeddings_and_output_weights"),
    "sliding_window": Foreign("model.window_size", "with model.window_pattern"),
    "initializer_range": Foreign("model.init_method_std"),
    "num_experts": Foreign("model.num_moe_experts"),
    "num_local_experts": Foreign("model.num_moe_experts"),
    "num_experts_per_tok": Foreign("model.moe_router_topk"),
}
_MODEL = {
    "model": Foreign("gpt_model_file"),
    "model_args": Foreign("gpt_model_file"),
    "model_path": Foreign("gpt_model_file"),
    "model_name_or_path": Foreign("gpt_model_file"),
    "checkpoint": Foreign("gpt_model_file"),
    "pretrained": Foreign("gpt_model_file"),
    "pretrained_checkpoint": Foreign("gpt_model_file"),
    "device": Foreign(None, "CUDA is used where there is any"),
    "devices": Foreign(None, "one process does it"),
    "accelerator": Foreign(None, "CUDA is used where there is any"),
    "checkpoint_dir": Foreign("gpt_model_file", "the directory itself"),
    "checkpoint_name": Foreign("gpt_model_file", "the checkpoint itself"),
    "hparams_file": Foreign("gpt_model_file", "which holds its own"),
    "dtype": Foreign("precision"),
}
_PAGE = "server=true answers programs; it shows no page"
_TOKEN = "the server's token is read from the environment variable RECIPES_SERVER_TOKEN"
GENERATE = _MODEL | {
    "devices": Foreign("tensor_model_parallel_size", "its processes are started"),
    "num_nodes": Foreign(None, "over several machines, start recipes.generate with torchrun or srun"),
    "expert_model_parallel_size": Foreign(
        "tensor_model_parallel_size", "its processes share the experts out among them"
    ),
    "expert_tensor_parallel_size": Foreign(
        "tensor_model_parallel_size", "its processes share the experts out among them"
    ),
    "pipeline_model_parallel_split_rank": Foreign(None, "no model here has an encoder"),
    "context_parallel_size": Foreign(None, "completion does not split texts"),
    "megatron_amp_O2": Foreign("precision"),
    "max_new_tokens": Foreign("inference.tokens_to_generate"),
    "max_tokens": Foreign("inference.tokens_to_generate"),
    "do_sample": Foreign("inference.greedy", "the opposite"),
    "stop": Foreign("inference.end_strings"),
    "prompt": Foreign("prompts", "'prompts=[\"...\"]'"),
    # Servers
    "web_server": Foreign(None, _PAGE),
    "share": Foreign(None, _PAGE),
    "web_port": Foreign(None, _PAGE),
    "token": Foreign(None, _TOKEN),
    "api_key": Foreign(None, _TOKEN),
    "served_model_name": Foreign("serving.model_name"),
    "max_model_len": Foreign("serving.max_length"),
    "max_num_seqs": Foreign("batch_size"),
}
EVALUATE = _MODEL | {
    "batch_size": Foreign("max_batch_tokens", "in tokens"),
    "output_path": Foreign("output"),
}
FOREIGN: dict[str, dict[str, Foreign]] = {"pretrain": PRETRAIN, "generate": GENERATE, "evaluate": EVALUATE}

FOREIGN_VALUES = {
    "16-mixed": "fp16",
    "16": "fp16",
    "float16": "fp16",
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "bfloat16": "bf16",
    "32": "fp32",
    "32-true": "fp32",
    "float32": "fp32",
    "adam": "adamw",
    "fused_adam": "adamw",
    "distributed_fused_adam": "adamw",
    "CosineAnnealing": "cosine",
    "silu": "swiglu",
    "fast-swiglu": "swiglu",
    "squared-relu": "squared_relu",
    "layernorm": "LayerNorm",
    "layernorm1p": "LayerNorm",
}
"""Values of other projects -> ours."""


def foreign_key(job: str, key: str) -> Foreign | None:
    """What another project's key is here, if it is a known one."""
    return FOREIGN.get(job, {}).get(key.rpartition(".")[2])
