"""Param-2 (BharatGen's mixture of experts) in plain PyTorch, for transformers with trust_remote_code=True.

The tensors have the names of the published model, which vLLM's Param2MoEForCausalLM reads; vLLM takes the
configuration from here and computes with its own class. Layers after ``first_k_dense_replace`` hold routed
experts, chosen by sigmoid scores plus a bias that balances them, and experts that every token passes through.

There is no cache of keys and values: ``generate`` computes the whole text for each new token
(use_cache=False).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class Param2MoEConfig(PretrainedConfig):
    """``moe_shared_expert_intermediate_size`` is the width of all shared experts together; 0: there are none.

    vLLM reads rope_theta and rope_scaling, and needs the base of the rotation in both.
    """

    model_type = "param2moe"

    def __init__(
        self,
        vocab_size: int = 128000,
        hidden_size: int = 2048,
        intermediate_size: int = 9216,
        num_hidden_layers: int = 21,
        num_attention_heads: int = 32,
        num_key_value_heads: int = 8,
        head_dim: int = 64,
        max_position_embeddings: int = 32768,
        hidden_act: str = "silu",
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 500000.0,
        use_qk_norm: bool = True,
        use_qkv_bias: bool = False,
        use_bias: bool = False,
        num_experts: int = 64,
        num_experts_per_tok: int = 6,
        moe_intermediate_size: int = 2048,
        num_shared_experts: int = 2,
        moe_shared_expert_intermediate_size: int = 4096,
        first_k_dense_replace: int = 1,
        n_group: int = 1,
        topk_group: int = 1,
        norm_topk_prob: bool = True,
        score_function: str = "sigmoid",
        moe_router_enable_expert_bias: bool = True,
        routed_scaling_factor: float = 2.5,
        initializer_range: float = 0.02,
        attention_dropout: float = 0.0,
        rope_scaling: dict[str, Any] | None = None,
        rope_parameters: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = hidden_act
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.use_qk_norm = use_qk_norm
        self.use_qkv_bias = use_qkv_bias
        self.use_bias = use_bias
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.num_shared_experts = num_shared_experts
        self.moe_shared_expert_intermediate_size = moe_shared_expert_intermediate_size
        self.first_k_dense_replace = first_k_dense_replace
        self.n_group = n_group
        self.topk_group = topk_group
        self.norm_topk_prob = norm_topk_prob
        self.score_function = score_function
        self.moe_router_enable_expert_bias = moe_router_enable_expert_bias
        self.routed_scaling_factor = routed_scaling_factor
        self.initializer_range = initializer_range
        self.attention_dropout = attention_dropout
        self.rope_parameters = {"rope_type": "default", "rope_theta": rope_theta}
        if not hasattr(type(self), "rope_scaling"):  # Before transformers 5, where it is the same attribute.
            self.rope_scaling = dict(self.rope_parameters)
        super().__init__(**kwargs)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channel j is paired with channel j + d / 2. ``x``: [batch, heads, tokens, d]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: Param2MoEConfig) -> None:
        super().__init__()
        self.config = config
        queries = config.num_attention_heads * config.head_dim
        values = config.num_key_value_heads * config.head_dim
        self.widths = [queries, values, values]
        self.query_key_value = nn.Linear(config.hidden_size, sum(self.widths), bias=False)
        self.dense = nn.Linear(queries, config.hidden_size, bias=False)
        if config.use_qk_norm:
            self.query_layernorm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
            self.key_layernorm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            part.view(batch, tokens, -1, self.config.head_dim)
            for part in self.query_key_value(x).split(self.widths, dim=-1)
        )
        if self.config.use_qk_norm:
            q, k = self.query_layernorm(q), self.key_layernorm(k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        dropout = self.config.attention_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.dense(out.transpose(1, 2).reshape(batch, tokens, -1))


class MLP(nn.Module):
    def __init__(self, config: Param2MoEConfig, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    """Scores the experts in float32: which ones are chosen depends on small differences."""

    expert_bias: nn.Parameter | None

    def __init__(self, config: Param2MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.num_experts, config.hidden_size))
        bias = torch.zeros(config.num_experts) if config.moe_router_enable_expert_bias else None
        self.register_parameter("expert_bias", None if bias is None else nn.Parameter(bias, False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[tokens, hidden_size] -> weights and numbers of the chosen experts, [tokens, chosen]."""
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        # The bias decides which experts are chosen, and is no part of their weights.
        biased = scores if self.expert_bias is None else scores + self.expert_bias.float()
        chosen = biased.topk(self.config.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return weights * self.config.routed_scaling_factor, chosen


class MixtureOfExperts(nn.Module):
    def __init__(self, config: Param2MoEConfig) -> None:
        super().__init__()
        self.gate = Gate(config)
        self.experts = nn.ModuleList(
            MLP(config, config.moe_intermediate_size) for _ in range(config.num_experts)
        )
        shared = config.moe_shared_expert_intermediate_size
        self.shared_experts = MLP(config, shared) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        weights, chosen = self.gate(tokens)
        out = torch.zeros_like(tokens) if self.shared_experts is None else self.shared_experts(tokens)
        for number, expert in enumerate(self.experts):
            token, rank = torch.where(chosen == number)
            out = out.index_add(0, token, expert(tokens[token]) * weights[token, rank, None].to(x.dtype))
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, config: Param2MoEConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        is_moe = layer >= config.first_k_dense_replace
        self.mlp = MixtureOfExperts(config) if is_moe else MLP(config, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Param2MoEPreTrainedModel(PreTrainedModel):
    config_class = Param2MoEConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]  # noqa: RUF012
    # Which experts are chosen depends on small differences.
    _keep_in_fp32_modules_strict = ["gate"]  # noqa: RUF012


class Param2MoEModel(Param2MoEPreTrainedModel):
    config: Param2MoEConfig

    def __init__(self, config: Param2MoEConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[batch, tokens] -> [batch, tokens, hidden_size]. ``attention_mask`` is 0 at padding."""
        tokens = input_ids.shape[1]
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=input_ids.device).tril()[None, None]
        positions = torch.arange(tokens, device=input_ids.device).expand_as(input_ids)
        if attention_mask is not None:
            # Counted from the first token that is not padding; padding sees itself, so that no row is empty.
            positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            diagonal = torch.eye(tokens, dtype=torch.bool, device=input_ids.device)
            mask = mask & attention_mask.bool()[:, None, None, :] | diagonal
        x = self.word_embeddings(input_ids)
        cos, sin = _rotary(positions, self.config, x)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)


def _rotary(positions: Tensor, config: Param2MoEConfig, x: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, [batch, 1, tokens, head_dim], computed in float32."""
    exponents = torch.arange(0, config.head_dim, 2, device=x.device, dtype=torch.float32) / config.head_dim
    angles = positions[:, None, :, None].float() * config.rope_theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Param2MoEForCausalLM(Param2MoEPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: Param2MoEConfig) -> None:
        super().__init__(config)
        self.model = Param2MoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.word_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits [batch, tokens, vocab_size], and the mean loss of the next token with ``labels``."""
        logits = self.lm_head(self.model(input_ids, attention_mask))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
            )
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}
