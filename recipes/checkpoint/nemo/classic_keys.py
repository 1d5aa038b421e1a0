"""The keys of classic NeMo's model_config.yaml, by what they decide; taken from NeMo 1.13 to 2.0.0.

NeMo hands every key that megatron-core's TransformerConfig knows on to megatron-core, so that no key may be
passed over: what no reader looks up and what is not listed here is refused.
"""

from __future__ import annotations

from typing import Any

from recipes.families.stated_keys import key_names

# Keys whose other values would change what the model computes, with the values that our families compute.
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "transformer_block_type": ("pre_ln",),
    "position_embedding_type": ("rope", "learned_absolute"),
    "normalize_attention_scores": (True,),
    "attention_type": ("multihead",),
    "seq_len_interpolation_factor": (None,),
    "layernorm_zero_centered_gamma": (False,),
    "num_moe_experts": (None, 0, 1),
    "headscale": (False,),
    "scale_positional_embedding": (False,),
    "apply_embedding_scaling": (False,),
    "openai_gelu": (False,),
    "apply_query_key_layer_scaling": (False, True),
    "rotary_interleaved": (False,),
    "qk_layernorm": (False,),
    "qkv_bias": (False,),
    "megatron_legacy": (False,),
    # The layers' specification by name.
    "name": (None, "", "te_gpt", "transformer_engine", "megatron_gpt_full_te_layer_autocast"),
}
# Classes that compute what MegatronGPTModel does.
TARGETS = ("MegatronGPTModel", "MegatronGPTSFTModel", "GPTSFTModel", "MegatronGPTDPOModel", "ParamGPT")

# How a run was laid out over GPUs; the files are the same under every layout.
LAYOUT = key_names(
    """
    context_parallel_size expert_model_parallel_size pipeline_model_parallel_size
    pipeline_model_parallel_split_rank sequence_parallel tensor_model_parallel_size
    tensor_model_parallel_world_size use_tp_pp_dp_mapping virtual_pipeline_model_parallel_size
    """
)
# What names files and checkpoints of the machine that the model was trained on.
PLACES = key_names(
    """
    hparams_file pretrained_checkpoint restore_from_ckpt restore_from_path resume_from_checkpoint
    """
)
# How fast, with how much memory and in which numeric format NeMo computes, and how it trains.
PERFORMANCE = key_names(
    """
    activations_checkpoint_granularity activations_checkpoint_layers_per_pipeline
    activations_checkpoint_method activations_checkpoint_num_layers apex_transformer_log_level
    apply_rope_fusion async_grad_allreduce attention_softmax_in_fp32 batch_p2p_comm
    bias_activation_fusion bias_dropout_add_fusion cpu_offloading cpu_offloading_activations
    cpu_offloading_num_layers cpu_offloading_weights cross_entropy_loss_fusion
    defer_embedding_wgrad_compute deterministic_mode dist_ckpt_assume_constant_structure
    dist_ckpt_load_on_device dist_ckpt_load_strictness dist_ckpt_parallel_dist_opt
    dist_ckpt_parallel_load dist_ckpt_parallel_save dist_ckpt_parallel_save_within_dp
    dist_ckpt_torch_dist_multiproc distributed_adam_bucket_merge_size enable_cuda_graph
    enable_megatron_timers fp16_lm_cross_entropy fp32_residual_connection fp8 fp8_amax_compute_algo
    fp8_amax_history_len fp8_e4m3 fp8_hybrid fp8_interval fp8_margin fp8_params fsdp fsdp_cpu_offload
    fsdp_grad_reduce_dtype fsdp_limit_all_gathers fsdp_sharded_checkpoint fsdp_sharding_strategy
    fsdp_use_orig_params gc_interval get_attention_mask_from_fusion grad_allreduce_chunk_size_mb
    grad_div_ar_fusion gradient_accumulation_fusion gradient_as_bucket_view hysteresis inductor
    inductor_cudagraphs masked_softmax_fusion megatron_timer_kwargs memory_efficient_layer_norm
    memory_profile native_amp_growth_interval native_amp_init_scale nccl_communicator_config_path
    nsys_profile num_micro_batches_with_partial_activation_checkpoints onnx_safe overlap_p2p_comm
    persist_layer_norm reduce_amax sharp skip_fp8_attention_checkpoint_load sync_batch_comm
    tp_only_amax_red ub_tp_comm_overlap ub_tp_comm_overlap_cfg use_cpu_initialization use_emha
    use_flash_attention use_te_rng_tracker validation_param_sync_overlap wgrad_deferral_limit
    with_fp32_embedding_grads
    """
)
TRAINING = key_names(
    """
    answer_only_loss data do_layer_norm_weight_decay drop_last exp_manager freeze_updates optim
    optim_param_groups rampup_batch_size reset_lr reset_lr_steps save_nemo_on_validation_end test_ds
    train_ds use_loss_mask validation_drop_last validation_ds
    """
)
# Who wrote the file, the form of its weights, and what is always so or only names sizes for a run.
ABOUT_THE_FILE = key_names(
    """
    dist_ckpt_format encoder_seq_length ffn_dropout global_batch_size make_vocab_size_divisible_by
    max_position_embeddings mcore_gpt megatron_amp_O2 micro_batch_size nemo_version override_vocab_size
    post_process pre_process precision seed target transformer_engine
    """
)
# Of the section ``tokenizer``.
TOKENIZER = key_names(
    """
    chat_template delimiter library merge_file model sentencepiece_legacy trust_remote_code type
    use_fast vocab_file
    """
)
CARRIED = PERFORMANCE | TRAINING
"""What a conversion takes over into the new file: without its fusions NeMo rounds otherwise in bf16."""
HARMLESS = CARRIED | LAYOUT | PLACES | ABOUT_THE_FILE

# What NeMo 2.0.0 reads without a default while it restores a model, prepares it for use or trains it on, and
# does not find among what describes a model (`cfg.` in megatron_gpt_model.py, megatron_base_model.py,
# nlp_model.py, megatron_trainer_builder.py; its configuration refuses to be asked for a missing key).
READ_BY_NEMO: dict[str, Any] = {
    "activations_checkpoint_granularity": None,
    "activations_checkpoint_method": None,
    "activations_checkpoint_num_layers": None,
    "activations_checkpoint_layers_per_pipeline": None,
    "gradient_as_bucket_view": True,
    "optim": {"name": "fused_adam"},
}
DATA_READ_BY_NEMO: dict[str, Any] = {
    "data_prefix": [],
    "index_mapping_dir": None,
    "data_impl": "mmap",
    "splits_string": "900,50,50",
    "skip_warmup": True,
    "num_workers": 2,
    "dataloader_type": "single",
}
"""Of its section ``data``, beside seq_length."""
