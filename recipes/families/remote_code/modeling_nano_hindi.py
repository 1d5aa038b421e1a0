"""nano_hindi in plain PyTorch, for transformers with trust_remote_code=True.

RMSNorm without gain everywhere, also on the word embeddings; norms of queries and keys after their
rotation; relu(x)^2; value embeddings on every other layer; before each layer a learned mix of the residual
stream and the embeddings; soft-capped logits in float32.

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

VALUE_GATE_CHANNELS = 32


class NanoHindiConfig(PretrainedConfig):
    """The nanochat line of early 2026.

    ``layer_windows`` holds, for each layer, how many tokens it attends to, including the query's own, or
    None for all; ``value_embedding_layers`` the numbers of the layers with a value embedding;
    ``logit_soft_cap`` the c of c * tanh(logits / c), or None.
    """

    model_type = "nano_hindi"

    def __init__(
        self,
        vocab_size: int = 68096,
        hidden_size: int = 384,
        intermediate_size: int = 1536,
        num_hidden_layers: int = 8,
        num_attention_heads: int = 6,
        num_key_value_heads: int = 2,
        head_dim: int = 64,
        max_position_embeddings: int = 1024,
        rms_norm_eps: float = 1.1920929e-07,
        rope_theta: float = 10000.0,
        layer_windows: list[int | None] | None = None,
        value_embedding_layers: list[int] | None = None,
        logit_soft_cap: float | None = 15.0,
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
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.layer_windows = layer_windows or [None] * num_hidden_layers
        self.value_embedding_layers = value_embedding_layers or []
        self.logit_soft_cap = logit_soft_cap
        super().__init__(**kwargs)


def norm(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), None, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channel j is paired with channel j + d / 2. ``x``: [batch, heads, tokens, d]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: NanoHindiConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        queries = config.num_attention_heads * config.head_dim
        values = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, values, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, values, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.has_values = layer in config.value_embedding_layers
        if self.has_values:
            self.value_embedding = nn.Embedding(config.vocab_size, values)
            self.value_gate = nn.Linear(VALUE_GATE_CHANNELS, config.num_key_value_heads, bias=False)

    def forward(self, x: Tensor, token_ids: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        eps, width = self.config.rms_norm_eps, self.config.head_dim
        q = self.q_proj(x).view(batch, tokens, -1, width).transpose(1, 2)
        k = self.k_proj(x).view(batch, tokens, -1, width).transpose(1, 2)
        v = self.v_proj(x).view(batch, tokens, -1, width)
        if self.has_values:
            gate = 2 * torch.sigmoid(self.value_gate(x[..., :VALUE_GATE_CHANNELS]))
            v = v + gate.unsqueeze(-1) * self.value_embedding(token_ids).view_as(v)
        q, k = norm(rotate(q, cos, sin), eps), norm(rotate(k, cos, sin), eps)
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        k = k.repeat_interleave(groups, dim=1)
        v = v.transpose(1, 2).repeat_interleave(groups, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).reshape(batch, tokens, -1))


class MLP(nn.Module):
    def __init__(self, config: NanoHindiConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)).square())


class Layer(nn.Module):
    def __init__(self, config: NanoHindiConfig, layer: int) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.resid_lambda = nn.Parameter(torch.ones(1))
        self.x0_lambda = nn.Parameter(torch.full((1,), 0.1))
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, x0: Tensor, token_ids: Tensor, cos: Tensor, sin: Tensor, mask: Tensor
    ) -> Tensor:
        # Zero-dimensional float32 tensors leave bfloat16 activations in bfloat16.
        x = self.resid_lambda.squeeze() * x + self.x0_lambda.squeeze() * x0
        x = x + self.self_attn(norm(x, self.eps), token_ids, cos, sin, mask)
        return x + self.mlp(norm(x, self.eps))


class NanoHindiPreTrainedModel(PreTrainedModel):
    config_class = NanoHindiConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]  # noqa: RUF012
    # Near 1 bfloat16 has steps of 1/128.
    _keep_in_fp32_modules_strict = ["resid_lambda", "x0_lambda"]  # noqa: RUF012


class NanoHindiModel(NanoHindiPreTrainedModel):
    config: NanoHindiConfig

    def __init__(self, config: NanoHindiConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[batch, tokens] -> [batch, tokens, hidden_size]. ``attention_mask`` is 0 at padding."""
        tokens, eps = input_ids.shape[1], self.config.rms_norm_eps
        x = x0 = norm(self.embed_tokens(input_ids), eps)
        positions = _positions(input_ids, attention_mask)
        cos, sin = _rotary(positions, self.config, x)
        causal_mask = _causal_mask(input_ids, attention_mask)
        index = torch.arange(tokens, device=x.device)
        distance = index[:, None] - index[None, :]
        for layer, window in zip(self.layers, self.config.layer_windows, strict=True):
            mask = causal_mask if window is None else causal_mask & (distance < window)
            x = layer(x, x0, input_ids, cos, sin, mask)
        return norm(x, eps)


def _positions(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Counted from the first token that is not padding. [batch, tokens]"""
    if attention_mask is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def _rotary(positions: Tensor, config: NanoHindiConfig, x: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, [batch, 1, tokens, head_dim], computed in float32."""
    exponents = torch.arange(0, config.head_dim, 2, device=x.device, dtype=torch.float32) / config.head_dim
    angles = positions[:, None, :, None].float() * config.rope_theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _causal_mask(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Which keys (last axis) each query may see: [batch or 1, 1, tokens, tokens]."""
    tokens = input_ids.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=input_ids.device).tril()[None, None]
    if attention_mask is None:
        return causal
    # Padding sees itself, so that no row is empty.
    diagonal = torch.eye(tokens, dtype=torch.bool, device=input_ids.device)
    return causal & attention_mask.bool()[:, None, None, :] | diagonal


class NanoHindiForCausalLM(NanoHindiPreTrainedModel, GenerationMixin):
    def __init__(self, config: NanoHindiConfig) -> None:
        super().__init__(config)
        self.model = NanoHindiModel(config)
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
        """Logits [batch, tokens, vocab_size] in float32; with ``labels`` the next token's mean loss too."""
        logits = self.lm_head(self.model(input_ids, attention_mask)).float()
        cap = self.config.logit_soft_cap
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}
