"""megatron-core's MLP, with our gated activations, and biases that work under recomputation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.transformer.mlp import MLP as MegatronMLP
from torch import Tensor
from torch.nn.functional import gelu, silu

from recipes.model.swiglu import geglu, swiglu


class MLP(MegatronMLP):
    """Returns a view of its last bias, which the layer adds later, never the parameter itself.

    Under recomputation whatever a function returns becomes an output of the recomputing autograd node.
    megatron-core 0.16.1 returns the parameter, which becomes its own descendant: the backward pass recomputes
    forever. tests/model/test_recomputation.py covers this.
    """

    def forward(
        self, hidden_states: Tensor, per_token_scale: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """``[s, b, h]`` -> output ``[s, b, h]`` without its bias, and the bias ``[h]`` if there is one."""
        gated = self._gated()
        if per_token_scale is None and gated is not None:
            intermediate, bias = self.linear_fc1(hidden_states)
            output, bias = self.linear_fc2(gated(intermediate if bias is None else intermediate + bias))
        else:
            output, bias = super().forward(hidden_states, per_token_scale, **options)
        return output, bias if bias is None else bias.view_as(bias)

    def _gated(self) -> Callable[[Tensor], Tensor] | None:
        """The activation with a gradient in one pass, where this machine gains by it."""
        config = self.config
        if not config.gated_linear_unit or config.cpu_offloading:
            return None
        # Where megatron-core would use a kernel of its own, without options of that kernel.
        if config.activation_func is silu:
            fuses = config.bias_activation_fusion and not config.activation_func_fp8_input_store
            return swiglu if fuses else None
        fuses = torch.cuda.is_available() and not config.use_te_activation_func
        plain = config.activation_func_clamp_value is None and not config.glu_linear_offset
        return geglu if fuses and plain and _is_tanh_gelu(config.activation_func) else None


def _is_tanh_gelu(function: Any) -> bool:
    return (
        isinstance(function, partial)
        and function.func is gelu
        and (function.args, function.keywords) == ((), {"approximate": "tanh"})
    )


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unknown MLP type")


# megatron-core compares classes, not subclasses, and says of every layer that it does not know ours.
logging.getLogger("megatron.core.transformer.transformer_layer").addFilter(_is_news)
