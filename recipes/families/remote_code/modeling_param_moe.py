"""PARAM MoE (Project-PARAM) in plain PyTorch, for transformers with trust_remote_code=True.

A GPT with learned positions; the layers in ``config.moe_layers`` hold a mixture of experts with noisy top-k
gating (Shazeer et al. 2017, arXiv 1701.06538, eq. 3 to 5). The noise is drawn in training only. The paper's
balancing losses are not here: this is for using the model and for plain fine-tuning.

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


class ParamMoeConfig(PretrainedConfig):
    """``moe_layers`` holds the numbers of the layers with a mixture of experts; the others are dense."""

    model_type = "param_moe"

    def __init__(
        self,
        vocab_size: int = 128002,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        num_key_value_heads: int = 12,
        head_dim: int = 64,
        max_position_embeddings: int = 1024,
        layer_norm_eps: float = 1e-5,
        num_experts: int = 8,
        num_experts_per_tok: int = 2,
        moe_intermediate_size: int = 3072,
        moe_layers: list[int] | None = None,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        initializer_range: float = 0.02,
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
        self.layer_norm_eps = layer_norm_eps
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.moe_layers = moe_layers or []
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


class Attention(nn.Module):
    def __init__(self, config: ParamMoeConfig) -> None:
        super().__init__()
        self.config = config
        queries = config.num_attention_heads * config.head_dim
        values = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, values, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, values, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            projection(x).view(batch, tokens, -1, self.config.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        dropout = self.config.attention_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.o_proj(out.transpose(1, 2).reshape(batch, tokens, -1))


class MLP(nn.Module):
    def __init__(self, config: ParamMoeConfig, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, width)
        self.fc2 = nn.Linear(width, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class MixtureOfExperts(nn.Module):
    def __init__(self, config: ParamMoeConfig) -> None:
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.noise_gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(config, config.moe_intermediate_size) for _ in range(config.num_experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        # In float32: which experts are chosen depends on small differences.
        logits = F.linear(tokens.float(), self.gate.weight.float())
        if self.training:
            deviation = F.softplus(F.linear(tokens.float(), self.noise_gate.weight.float()))
            logits = logits + torch.randn_like(logits) * deviation
        values, chosen = logits.topk(self.chosen, dim=-1)
        weights = values.softmax(dim=-1).to(x.dtype)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            token, rank = torch.where(chosen == number)
            out.index_add_(0, token, expert(tokens[token]) * weights[token, rank, None])
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, config: ParamMoeConfig, layer: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        is_moe = layer in config.moe_layers
        self.mlp = MixtureOfExperts(config) if is_moe else MLP(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), mask))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class ParamMoePreTrainedModel(PreTrainedModel):
    config_class = ParamMoeConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]  # noqa: RUF012
    # Which experts are chosen depends on small differences.
    _keep_in_fp32_modules_strict = ["gate", "noise_gate"]  # noqa: RUF012


class ParamMoeModel(ParamMoePreTrainedModel):
    def __init__(self, config: ParamMoeConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[batch, tokens] -> [batch, tokens, hidden_size]. ``attention_mask`` is 0 at padding."""
        tokens = input_ids.shape[1]
        if tokens > self.config.max_position_embeddings:
            raise ValueError(
                f"{tokens} tokens; the model has {self.config.max_position_embeddings} positions"
            )
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=input_ids.device).tril()[None, None]
        positions = torch.arange(tokens, device=input_ids.device).expand_as(input_ids)
        if attention_mask is not None:
            # Counted from the first token that is not padding; padding sees itself, so that no row is empty.
            positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            diagonal = torch.eye(tokens, dtype=torch.bool, device=input_ids.device)
            mask = mask & attention_mask.bool()[:, None, None, :] | diagonal
        x = self.dropout(self.embed_tokens(input_ids) + self.embed_positions(positions))
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class ParamMoeForCausalLM(ParamMoePreTrainedModel, GenerationMixin):
    def __init__(self, config: ParamMoeConfig) -> None:
        super().__init__(config)
        self.model = ParamMoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

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
