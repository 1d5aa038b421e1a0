"""A GPTModel's weights as the decode path reads them: views by canonical name, no second copy.

A rank reads its own part of a model that is split over ranks. Every tensor of the family's table is looked up
exactly once. A family or setting that the decode path does not know is found here, before anything is
computed: :class:`Unknown` says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.checkpoint.formats.names import canonical_names, numbered_from
from recipes.config.stored_options import STORED_OPTIONS
from recipes.families.family import layer_windows, tensor_table
from recipes.families.model_config import (
    GATED_ACTIVATIONS,
    ModelConfig,
    kv_channels,
    moe_layers,
    num_query_groups,
)
from recipes.families.tensors import OUTPUT_LAYER, WORD_EMBEDDINGS, TensorSpec
from recipes.inference.decode.few_rows import step_product
from recipes.inference.decode.norm import Norm
from recipes.inference.decode.share import WHOLE, Share
from recipes.model.build import ACTIVATIONS
from recipes.model.families import layers_of

# Fields of model.megatron that change nothing at these values, or change only how megatron-core computes.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "attention_softmax_in_fp32": (True, False),
    "bias_activation_fusion": (False,),
    "apply_query_key_layer_scaling": (False,),
    "rotary_interleaved": (False,),
    "no_rope_freq": (None,),
    "softmax_type": ("vanilla",),
    "fp32_residual_connection": (False,),
    "activation_func_clamp_value": (None,),
    "glu_linear_offset": (0, 0.0),
    "moe_router_dtype": (None, "fp32"),
    "moe_router_group_topk": (None,),
    "moe_router_num_groups": (None,),
    "moe_input_jitter_eps": (None,),
    "moe_apply_probs_on_input": (False,),
    "moe_shared_expert_gate": (True, False),
    "softmax_scale": (),  # Any: it is read below.
}


class Unknown(Exception):
    """The decode path does not compute this model; the message says why."""


@dataclass(frozen=True)
class Linear:
    """A matrix ``[out, in]`` and perhaps a bias ``[out]``."""

    weight: Tensor
    bias: Tensor | None = None
    columns_of: Share = WHOLE
    """Over whose tensor-parallel ranks the columns are spread."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """``[n, in]`` -> ``[n, out]``."""
        if self.columns_of.tensor is None:
            return step_product(hidden, self.weight, self.bias)
        out = self.columns_of.summed(step_product(hidden, self.weight))
        return out if self.bias is None else out + self.bias


@dataclass(frozen=True)
class MLP:
    """Two matrices with the activation between; gated: the first one's rows are gate and up."""

    first: Linear
    second: Linear
    activation: Callable[[Tensor], Tensor]
    gated: bool

    def __call__(self, hidden: Tensor) -> Tensor:
        """``[n, h]`` -> ``[n, h]``."""
        return self.second(self.activated(self.first(hidden)))

    def activated(self, inner: Tensor) -> Tensor:
        if not self.gated:
            return self.activation(inner)
        gate, up = inner.chunk(2, dim=-1)
        return self.activation(gate) * up


@dataclass(frozen=True)
class Experts:
    """A mixture: scores in fp32 choose ``top_k`` experts, whose outputs are added by their shares."""

    router: Tensor
    routed: tuple[MLP, ...]
    """Those of this rank, numbered from ``first`` on."""
    top_k: int
    sigmoid: bool
    softmax_first: bool
    factor: float
    score_bias: Tensor | None = None
    shared: MLP | None = None
    shared_gate: Tensor | None = None
    first: int = 0
    share: Share = WHOLE

    def route(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, h]`` -> the chosen experts' shares in fp32 and their numbers, ``[n, top_k]`` both."""
        logits = hidden.float() @ self.router.float().t()
        if self.sigmoid:
            scores = logits.sigmoid()
            choice = scores if self.score_bias is None else scores + self.score_bias
            experts = choice.topk(self.top_k, dim=-1).indices
            shares = scores.gather(1, experts)
            if self.top_k > 1:
                shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)
        elif self.softmax_first:
            shares, experts = logits.softmax(-1).topk(self.top_k, dim=-1)
        else:
            values, experts = logits.topk(self.top_k, dim=-1)
            shares = values.softmax(-1)
        return shares * self.factor, experts


@dataclass(frozen=True)
class Layer:
    """One transformer layer. What is None, the family's layer does not have."""

    input_norm: Norm
    qkv: Linear
    """Rows by query group: its queries, its key, its value."""
    query_norm: Norm | None
    key_norm: Norm | None
    output: Linear
    after_attention: Norm | None
    mlp_norm: Norm
    mlp: MLP | Experts
    after_mlp: Norm | None
    window: int | None
    rotary: int
    """Which of the model's rotary bases; they are none with learned positions."""
    stream_share: Tensor | None = None
    """The layer reads this times the residual stream plus ``embedding_share`` times the embedding."""
    embedding_share: Tensor | None = None
    value_table: Tensor | None = None
    """``[vocabulary, groups * d]``, added to values through ``value_gate`` ``[groups, channels]``."""
    value_gate: Tensor | None = None


@dataclass(frozen=True)
class Weights:
    """The whole model, or this rank's share of it."""

    share: Share
    words: Tensor | None
    """``[V, h]``; None on all pipeline stages but the first."""
    positions: Tensor | None
    word_factor: float
    word_norm: Norm | None
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    head: Tensor | None
    """Rows of the real vocabulary, with padding where ranks share them out; None on all pipeline stages but
    the last, as the norm before it."""
    vocab_size: int
    soft_cap: float | None
    heads: int
    """Of this rank, as the groups."""
    groups: int
    width: int
    """Of one head."""
    scale: float
    """Of attention scores."""
    rotary_bases: tuple[int, ...]
    rotary_width: int
    max_length: int

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].qkv.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.layers[0].qkv.weight.device

    @property
    def hidden_size(self) -> int:
        return self.layers[0].input_norm.width


class _Reader:
    """Looks up tensors by their name in the whole model, and knows which were asked for."""

    def __init__(self, gpt: Any, model: ModelConfig, share: Share) -> None:
        self.numbers = [layer.layer_number - 1 for layer in gpt.decoder.layers]
        """Of the layers that are here."""
        ranks = gpt.pg_collection.ep
        here = (model.num_moe_experts or 0) // ranks.size()
        self.experts = range(here * ranks.rank(), here * (ranks.rank() + 1))
        """The numbers of the routed experts that are here."""
        named = {**dict(gpt.named_parameters()), **dict(gpt.named_buffers())}
        self.tensors = {
            numbered_from(self.numbers[0], self.experts.start, short): named[name].data
            for name, short in canonical_names(named).items()
        }
        self.left = {spec.name for spec in tensor_table(model) if self._is_here(spec, share)}
        self.model, self.share, self.zero_centred = model, share, gpt.config.layernorm_zero_centered_gamma

    def _is_here(self, spec: TensorSpec, share: Share) -> bool:
        if spec.layer is not None:
            return spec.layer in self.numbers and (spec.expert is None or spec.expert in self.experts)
        return share.is_first if spec.name.startswith("embedding.") else share.is_last

    def __call__(self, name: str) -> Tensor:
        self.left.remove(name)
        return self.tensors[name]

    def maybe(self, name: str) -> Tensor | None:
        return self(name) if name in self.left else None

    def linear(self, name: str, number: str = "", columns_of: Share = WHOLE) -> Linear:
        return Linear(self(f"{name}weight{number}"), self.maybe(f"{name}bias{number}"), columns_of)

    def norm(self, name: str, width: int) -> Norm:
        model = self.model
        gain, bias = self.maybe(name + "weight"), self.maybe(name + "bias")
        wide = self.zero_centred and gain is not None
        if wide and gain is not None:
            gain = 1.0 + gain.float()
            bias = None if bias is None else bias.float()
        layer = model.normalization == "LayerNorm"
        return Norm(width, model.layernorm_epsilon, gain, bias, layer, wide)

    def maybe_norm(self, name: str, width: int) -> Norm | None:
        return self.norm(name, width) if name + "weight" in self.left else None


def read_weights(gpt: Any, vocab_size: int) -> Weights:
    """The weights of a GPTModel, or of this rank's part of one.

    Raises:
        Unknown: the decode path does not compute this model.
    """
    model: ModelConfig | None = getattr(gpt, "description", None)
    decoding = None if model is None else layers_of(model).decoding
    if model is None or decoding is None:
        raise Unknown(f"the family {model.family if model else type(gpt).__name__} has no decode path")
    _check(gpt, model)
    share = _share(gpt)
    read, hidden = _Reader(gpt, model, share), model.hidden_size
    words = read(WORD_EMBEDDINGS) if share.is_first else None
    rotary = model.position_embedding_type == "rope"
    dtype, windows = gpt.config.params_dtype, layer_windows(model)
    factor = torch.tensor(math.sqrt(hidden), dtype=dtype).item() if decoding.scales_embedding else 1.0
    weights = Weights(
        share=share,
        words=words,
        positions=None if rotary else read.maybe("embedding.position_embeddings.weight"),
        word_factor=factor,
        word_norm=Norm(hidden, model.layernorm_epsilon) if decoding.norms_embedding else None,
        layers=tuple(
            _layer(read, f"decoder.layers.{number}.", number, windows[number]) for number in read.numbers
        ),
        final_norm=read.norm("decoder.final_layernorm.", hidden) if share.is_last else None,
        head=_head(read, words, vocab_size) if share.is_last else None,
        vocab_size=vocab_size,
        soft_cap=model.final_logit_softcapping,
        heads=model.num_attention_heads // share.parts,
        groups=num_query_groups(model) // share.parts,
        width=kv_channels(model),
        scale=gpt.config.softmax_scale or kv_channels(model) ** -0.5,
        rotary_bases=_rotary_bases(model) if rotary else (),
        rotary_width=int(kv_channels(model) * model.rotary_percent),
        max_length=model.max_position_embeddings,
    )
    if read.left:
        raise Unknown(f"{', '.join(sorted(read.left)[:3])} would not be used")
    return weights


def _share(gpt: Any) -> Share:
    groups = gpt.pg_collection
    return Share(
        tensor=groups.tp if groups.tp.size() > 1 else None,
        pipeline=groups.pp if groups.pp.size() > 1 else None,
        experts=groups.tp_ep if gpt.config.num_moe_experts and groups.tp_ep.size() > 1 else None,
    )


def _head(read: _Reader, words: Tensor | None, vocab_size: int) -> Tensor:
    if not read.model.share_embeddings_and_output_weights:
        head = read(OUTPUT_LAYER)
    else:  # The last of several stages has a copy of the words, under the head's name.
        head = read.tensors[OUTPUT_LAYER] if words is None else words
    return head[:vocab_size] if read.share.tensor is None else head


def _check(gpt: Any, model: ModelConfig) -> None:
    config = gpt.config
    if config.context_parallel_size > 1:
        raise Unknown("texts are split over ranks")
    if model.moe_expert_capacity_factor is not None and any(moe_layers(model)):
        raise Unknown("experts have a capacity, so tokens depend on others")
    for name, value in model.megatron.items():
        known = HARMLESS.get(name)
        if name in STORED_OPTIONS and (known is None or (known and value not in known)):
            raise Unknown(f"model.megatron.{name}={value} is not computed by it")


def _rotary_bases(model: ModelConfig) -> tuple[int, ...]:
    local = model.rotary_base_local
    return (model.rotary_base,) if local is None else (model.rotary_base, local)


def _layer(read: _Reader, prefix: str, number: int, window: int | None) -> Layer:
    model, hidden, width = read.model, read.model.hidden_size, kv_channels(read.model)
    attention, mlp = f"{prefix}self_attention.", f"{prefix}mlp."
    is_mixture = moe_layers(model)[number]
    return Layer(
        input_norm=read.norm(f"{attention}linear_qkv.layer_norm_", hidden),
        qkv=read.linear(f"{attention}linear_qkv."),
        query_norm=read.norm(f"{attention}q_layernorm.", width) if model.qk_layernorm else None,
        key_norm=read.norm(f"{attention}k_layernorm.", width) if model.qk_layernorm else None,
        output=read.linear(f"{attention}linear_proj.", columns_of=read.share),
        after_attention=read.maybe_norm(f"{attention}linear_proj.post_layernorm.", hidden),
        mlp_norm=read.norm(
            f"{prefix}pre_mlp_layernorm." if is_mixture else f"{mlp}linear_fc1.layer_norm_", hidden
        ),
        mlp=_experts(read, mlp) if is_mixture else _mlp(read, mlp, columns_of=read.share),
        after_mlp=read.maybe_norm(f"{mlp}linear_fc2.post_layernorm.", hidden),
        window=window,
        rotary=int(window is not None and model.rotary_base_local is not None),
        stream_share=read.maybe(f"{prefix}resid_lambda"),
        embedding_share=read.maybe(f"{prefix}x0_lambda"),
        value_table=read.maybe(f"{attention}value_embedding.weight"),
        value_gate=read.maybe(f"{attention}value_gate.weight"),
    )


def _mlp(read: _Reader, prefix: str, number: str = "", columns_of: Share = WHOLE) -> MLP:
    activation = read.model.activation
    return MLP(
        read.linear(f"{prefix}linear_fc1.", number),
        read.linear(f"{prefix}linear_fc2.", number, columns_of),
        ACTIVATIONS[activation],
        activation in GATED_ACTIVATIONS,
    )


def _experts(read: _Reader, prefix: str) -> Experts:
    model = read.model
    shared = f"{prefix}shared_experts."
    read.maybe(f"{prefix}router.noise_weight")  # Noise is for training.
    return Experts(
        router=read(f"{prefix}router.weight"),
        # Where ranks have parts of their matrices, the parts' outputs are added with those of other experts.
        routed=tuple(_mlp(read, f"{prefix}experts.", str(number)) for number in read.experts),
        top_k=model.moe_router_topk,
        sigmoid=model.moe_router_score_function == "sigmoid",
        softmax_first=model.moe_router_pre_softmax,
        factor=model.moe_router_topk_scaling_factor or 1.0,
        score_bias=read.maybe(f"{prefix}router.expert_bias"),
        shared=None
        if model.moe_shared_expert_intermediate_size is None
        else _mlp(read, shared, columns_of=read.share),
        shared_gate=read.maybe(f"{shared}gate_weight"),
        first=read.experts.start,
        share=read.share,
    )
