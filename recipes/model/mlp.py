"""megatron-core's MLP, with biases that work under recomputation."""

from __future__ import annotations

import logging
from typing import Any

from megatron.core.transformer.mlp import MLP as MegatronMLP
from torch import Tensor


class MLP(MegatronMLP):
    """Returns a view of its last bias, which the layer adds later, never the parameter itself.

    Under recomputation whatever a function returns becomes an output of the recomputing autograd node.
    megatron-core 0.16.1 returns the parameter, which becomes its own descendant: the backward pass recomputes
    forever. tests/model/test_recomputation.py covers this.
    """

    def forward(self, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        """``[s, b, h]`` -> output ``[s, b, h]`` without its bias, and the bias ``[h]`` if there is one."""
        output, bias = super().forward(*inputs, **options)
        return output, bias if bias is None else bias.view_as(bias)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unknown MLP type")


# megatron-core compares classes, not subclasses, and says of every layer that it does not know ours.
logging.getLogger("megatron.core.transformer.transformer_layer").addFilter(_is_news)
