"""nano_hindi: the nanochat line of early 2026 (github.com/karpathy/nanochat), as its card describes it.

RMSNorm without gain everywhere, also on the word embeddings; norms of queries and keys; relu(x)^2; value
embeddings on every other layer; before each layer a learned mix of the residual stream and the embeddings;
soft-capped logits. The configuration sets the windows, as in every family.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.jit import jit_fuser
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.transformer import ModuleSpec, TransformerConfig, TransformerLayer
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules
from torch import Tensor, nn

from recipes.families.model_config import ModelConfig, padded_vocab_size
from recipes.families.nano_hindi import value_embedding_layers
from recipes.model.families import Decoding, FamilyLayers
from recipes.model.gpt import GPTModel
from recipes.model.initial_values import OUTPUT_PROJECTIONS, Constant, InitialValues, Normal, Uniform
from recipes.model.rotary import SelfAttention
from recipes.model.value_embedding import ValueEmbeddedAttention


class GainFreeRMSNorm(nn.Module):
    """Root-mean-square norm without gain (arXiv 1910.07467, eq. 4 with g = 1).

    ``layernorm_epsilon`` applies in every precision. The card's float32 epsilon is also what torch's kernels
    use for bfloat16 inputs when they are given none.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.shape, self.eps = (hidden_size,), eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., h]`` -> ``[..., h]``."""
        return nn.functional.rms_norm(hidden_states, self.shape, None, self.eps)


class NanoHindiLayer(TransformerLayer):
    """A transformer layer that reads ``resid_lambda * x + x0_lambda * x0``, x0 being the normed embedding.

    x0 and the token ids arrive in ``context`` and ``context_mask``: arguments that megatron-core passes to
    every layer, also under recomputation and with gradients, and that only cross-attention would use.
    """

    def __init__(self, config: TransformerConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.resid_lambda = _scalar(config)
        self.x0_lambda = _scalar(config)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        context: Tensor,
        context_mask: Tensor,
        attention_bias: None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """``[s, b, h]`` -> ``[s, b, h]`` and the unchanged ``context``.

        Args:
            hidden_states: the residual stream.
            context: x0, ``[s, b, h]``; both are this rank's part under sequence parallelism.
            context_mask: token ids ``[s, b]`` of the whole sequence.
        """
        mixed = _mix(hidden_states, context, self.resid_lambda, self.x0_lambda)
        embeds_values = isinstance(self.self_attention, ValueEmbeddedAttention)
        output, _ = super().forward(
            hidden_states=mixed, attention_bias=context_mask if embeds_values else None, **options
        )
        return output, context


def _scalar(config: TransformerConfig) -> nn.Parameter:
    """A trained number, of shape [1]: megatron-core's checkpoints and optimizer split along an axis.

    Always in float32: near 1 bfloat16 has steps of 1/128.
    """
    scalar = nn.Parameter(torch.empty(1, dtype=torch.float32, device=torch.cuda.current_device()))
    # Each rank sees a part of the sequence, so megatron-core must sum the gradients over the ranks.
    scalar.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return scalar


@jit_fuser
def _mix(hidden_states: Tensor, embedded: Tensor, resid: Tensor, x0: Tensor) -> Tensor:
    # Zero-dimensional float32 tensors leave bfloat16 activations in bfloat16.
    return resid.squeeze() * hidden_states + x0.squeeze() * embedded


class NanoHindiModel(GPTModel):
    """GPTModel with normed word embeddings, which every layer sees, and soft-capped logits in fp32."""

    def __init__(self, config: TransformerConfig, *, description: ModelConfig, **options: Any) -> None:
        super().__init__(config=config, description=description, **options)
        self.embedding_norm = GainFreeRMSNorm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, input_ids: Tensor, position_ids: Tensor, *args: Any, **options: Any) -> Tensor:
        """Token ids ``[b, s]`` -> losses ``[b, s]`` with ``labels``, else logits ``[b, s, V]``."""
        embedded = self.embedding_norm(self.embedding(input_ids=input_ids, position_ids=position_ids))
        output: Tensor = super().forward(
            input_ids,
            position_ids,
            *args,
            decoder_input=embedded,
            extra_block_kwargs={"context": embedded, "context_mask": input_ids.t().contiguous()},
            **options,
        )
        return output

    def _postprocess(self, *args: Any, labels: Tensor | None = None, **options: Any) -> Tensor:
        output: Tensor = super()._postprocess(*args, labels=labels, **options)
        if labels is not None:
            return output  # The loss has capped its logits.
        logits = output.float()
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


def layer_spec(model: ModelConfig, backend: BackendSpecProvider, *, embeds_values: bool) -> ModuleSpec:
    """One transformer layer. Its norms have no gain, so none is fused into the linear layer after it."""
    attention = SelfAttentionSubmodules(
        linear_qkv=backend.column_parallel_linear(),
        core_attention=backend.core_attention(),
        linear_proj=backend.row_parallel_linear(),
        # The family norms queries and keys after their rotation, megatron-core before it. Without gain that
        # is the same: a rotation R keeps the mean square, so norm(R q) = R q / rms(R q) = R (q / rms(q)),
        # whatever the epsilon. Only rounding differs.
        q_layernorm=GainFreeRMSNorm,
        k_layernorm=GainFreeRMSNorm,
    )
    params: dict[str, Any] = {"attn_mask_type": AttnMaskType.causal}
    if embeds_values:
        params["vocab_size"] = padded_vocab_size(model)
    return ModuleSpec(
        module=NanoHindiLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=GainFreeRMSNorm,
            self_attention=ModuleSpec(
                module=ValueEmbeddedAttention if embeds_values else SelfAttention,
                params=params,
                submodules=attention,
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=GainFreeRMSNorm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(
                    linear_fc1=backend.column_parallel_linear(), linear_fc2=backend.row_parallel_linear()
                ),
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def block_spec(
    model: ModelConfig, config: TransformerConfig, backend: BackendSpecProvider
) -> TransformerBlockSubmodules:
    """All layers, as there is only one pipeline stage, and the final norm."""
    layers = [
        layer_spec(model, backend, embeds_values=embeds_values)
        for embeds_values in value_embedding_layers(model)
    ]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=GainFreeRMSNorm)


def initial_values(name: str, fan_in: int, model: ModelConfig) -> InitialValues:
    """The card's: sub-layers add nothing at first, and gates let value embeddings through."""
    constants = {"resid_lambda": 1.0, "x0_lambda": 0.1, "value_gate.weight": 0.0}
    for ending, value in constants.items():
        if name.endswith(ending):
            return Constant(value)
    if name.endswith(OUTPUT_PROJECTIONS):
        return Constant(0.0)
    if name.endswith("word_embeddings.weight"):
        return Normal(1.0)
    if name.endswith("output_layer.weight"):
        return Normal(0.001)
    if name.endswith(("linear_qkv.weight", "linear_fc1.weight", "value_embedding.weight")):
        return Uniform(math.sqrt(3.0 / model.hidden_size))  # A standard deviation of 1 / sqrt(hidden_size).
    raise ValueError(f"{name}: the family has no such parameter")


LAYERS = FamilyLayers(
    block_spec=block_spec,
    gpt_model=NanoHindiModel,
    initial_values=initial_values,
    decoding=Decoding(norms_embedding=True),
)
