"""The fields of NeMo 2's model.yaml that do not decide what the model computes.

They are the fields of megatron-core's TransformerConfig and ModelParallelConfig (0.9.0 to 0.16.1) and of
NeMo 2's GPTConfig (2.0.0 to 2.7.3). What no reader looks up and what is not listed here is refused.
"""

from __future__ import annotations

from recipes.families.stated_keys import key_names

# The sections beside ``config``. A transform of the model, adapters for one, is none of them.
OF_THE_DOCUMENT = frozenset({"_target_", "config", "model_context_managers", "optim", "tokenizer"})

# How a run is laid out over GPUs, communicates and saves memory.
PARALLEL = key_names(
    """
    account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split
    async_tensor_model_parallel_allreduce barrier_with_L1_time batch_p2p_comm batch_p2p_sync
    clone_scatter_output_in_embedding context_parallel_size cp_comm_type cpu_offloading
    cpu_offloading_activations cpu_offloading_double_buffering cpu_offloading_num_layers
    cpu_offloading_weights _cpu_offloading_context deallocate_pipeline_outputs
    defer_embedding_wgrad_compute delay_wgrad_compute distribute_saved_activations
    ep_overlap_early_attn_memory_release expert_model_parallel_size expert_tensor_parallel_size
    fine_grained_activation_offloading first_pipeline_num_layers hierarchical_context_parallel_sizes
    hybrid_context_parallel last_pipeline_num_layers max_seqlen_per_dp_cp_rank
    microbatch_group_size_per_vp_stage min_offloaded_tensor_size mtp_standalone
    num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage
    num_microbatches_with_partial_activation_checkpoints offload_modules
    overlap_moe_expert_parallel_comm overlap_p2p_comm overlap_p2p_comm_warmup_flush
    pipeline_model_parallel_comm_backend pipeline_model_parallel_layout pipeline_model_parallel_size
    pipeline_model_parallel_split_rank recompute_granularity recompute_method recompute_modules
    recompute_num_layers scatter_embedding_sequence_parallel sequence_parallel symmetric_ar_type
    tensor_model_parallel_size tp_comm_atomic_ag tp_comm_atomic_rs tp_comm_bootstrap_backend
    tp_comm_bulk_dgrad tp_comm_bulk_wgrad tp_comm_overlap tp_comm_overlap_ag tp_comm_overlap_cfg
    tp_comm_overlap_disable_fc1 tp_comm_overlap_disable_qkv tp_comm_overlap_rs tp_comm_overlap_rs_dgrad
    tp_comm_split_ag tp_comm_split_rs use_ring_exchange_p2p variable_seq_lengths
    virtual_pipeline_model_parallel_size wgrad_deferral_limit
    """
)
# Kernels, numeric formats and random numbers.
KERNELS = key_names(
    """
    activation_func_fp8_input_store apply_query_key_layer_scaling apply_rope_fusion attention_backend
    attention_softmax_in_fp32 autocast_dtype batch_invariant_mode bf16 bias_activation_fusion
    bias_dropout_add_fusion bias_dropout_fusion cross_entropy_fusion_impl cross_entropy_loss_fusion
    cuda_graph_impl cuda_graph_retain_backward_graph cuda_graph_scope cuda_graph_use_single_mempool
    cuda_graph_warmup_steps deterministic_mode disable_bf16_reduced_precision_matmul
    disable_parameter_transpose_cache enable_autocast enable_cuda_graph external_cuda_graph
    first_last_layers_bf16 flash_decode fp16 fp16_lm_cross_entropy fp32_residual_connection fp4
    fp4_param fp4_quantizer_factory fp4_recipe fp8 fp8_amax_compute_algo fp8_amax_history_len
    fp8_dot_product_attention fp8_interval fp8_margin fp8_multi_head_attention fp8_param
    fp8_quantizer_factory fp8_recipe fp8_wgrad fused_single_qkv_rope gradient_accumulation_fusion
    inference_fuse_tp_communication inference_rng_tracker inference_sampling_seed
    kitchen_attention_backend masked_softmax_fusion memory_efficient_layer_norm mlp_chunks_for_prefill
    num_layers_at_end_in_bf16 num_layers_at_start_in_bf16 parallel_output params_dtype
    persist_layer_norm pipeline_dtype quant_recipe test_mode tp_only_amax_red transformer_impl
    use_cpu_initialization use_fused_weighted_squared_relu use_inference_optimized_layers use_kitchen
    use_kitchen_attention use_mamba_mem_eff_path use_te_activation_func use_te_rng_tracker
    use_transformer_engine_full_layer_spec use_transformer_engine_op_fuser
    """
)
# Initial values, training and logging.
TRAINING = key_names(
    """
    calculate_per_token_loss config_logger_dir data_step_fn embedding_init_method
    embedding_init_method_std finalize_model_grads_func forward_step_fn generation_config
    grad_scale_func grad_sync_func hetereogenous_dist_checkpoint init_method init_model_with_meta_device
    log_max_attention_logit mtp_loss_scaling_factor no_sync_func output_layer_init_method
    param_sync_func perform_initialization qk_clip qk_clip_alpha qk_clip_threshold timers
    """
)
# Of experts: how they are computed and trained.
EXPERTS = key_names(
    """
    moe_deepep_num_sms moe_enable_deepep moe_enable_routing_replay moe_extended_tp
    moe_flex_dispatcher_backend moe_grouped_gemm moe_hybridep_num_sms moe_input_jitter_eps
    moe_layer_recompute moe_pad_expert_input_to_capacity moe_per_layer_logging moe_permute_fusion
    moe_router_dtype moe_router_fusion moe_router_padding_for_fp8
    moe_router_padding_for_quantization moe_shared_expert_overlap moe_token_dispatcher_type
    moe_token_drop_policy moe_token_dropping moe_use_legacy_grouped_gemm
    """
)
# Sizes of layers that are there only where is_hybrid_model or experimental_attention_variant says so.
OTHER_LAYERS = key_names(
    """
    dsa_indexer_head_dim dsa_indexer_loss_coeff dsa_indexer_n_heads dsa_indexer_topk
    dsa_indexer_use_sparse_loss linear_attention_freq linear_conv_kernel_dim linear_key_head_dim
    linear_num_key_heads linear_num_value_heads linear_value_head_dim mamba_head_dim mamba_num_groups
    mamba_num_heads mamba_state_dim
    """
)
SIZES = frozenset({"make_vocab_size_divisible_by", "max_position_embeddings", "seq_length", "vocab_size"})
HARMLESS = PARALLEL | KERNELS | TRAINING | EXPERTS | OTHER_LAYERS | SIZES
