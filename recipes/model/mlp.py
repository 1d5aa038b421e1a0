"""megatron-core's MLP, with our SwiGLU, and biases that work under recomputation."""

from __future__ import annotations

import logging
from typing import Any

from megatron.core.transformer.mlp import MLP as MegatronMLP
from torch import Tensor
from torch.nn.functional import silu

from recipes.model.swiglu import swiglu


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
        if per_token_scale is None and self._fuses_swiglu():
            intermediate, bias = self.linear_fc1(hidden_states)
            output, bias = self.linear_fc2(swiglu(intermediate if bias is None else intermediate + bias))
        else:
            output, bias = super().forward(hidden_states, per_token_scale, **options)
        return output, bias if bias is None else bias.view_as(bias)

    def _fuses_swiglu(self) -> bool:
        """Where megatron-core would do so by its own kernel, without options of that kernel."""
        config = self.config
        return (
            config.bias_activation_fusion
            and config.gated_linear_unit
            and config.activation_func is silu
            and not config.activation_func_fp8_input_store
            and not config.cpu_offloading
        )


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unknown MLP type")


# megatron-core compares classes, not subclasses, and says of every layer that it does not know ours.
logging.getLogger("megatron.core.transformer.transformer_layer").addFilter(_is_news)
