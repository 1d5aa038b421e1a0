"""The values that parameters are filled with before training, by name. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recipes.families.model_config import ModelConfig

OUTPUT_PROJECTIONS = ("linear_proj.weight", "linear_fc2.weight")
NORM_GAINS = ("layernorm.weight", "layer_norm_weight")
EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight")


@dataclass(frozen=True)
class Constant:
    value: float


@dataclass(frozen=True)
class Normal:
    """Mean 0."""

    std: float


@dataclass(frozen=True)
class Uniform:
    """Over (-bound, bound)."""

    bound: float


InitialValues = Constant | Normal | Uniform


def megatron_initial_values(name: str, fan_in: int, model: ModelConfig) -> InitialValues:
    """Matrices and tables normal, norm gains 1, biases 0, as Megatron-LM initialises them.

    With ``use_scaled_init_method``, output projections are divided by sqrt(2 * num_layers) as in GPT-2
    (Radford et al. 2019, section 2.3). ``kaiming_uniform`` is torch.nn.Linear's own: uniform within
    1 / sqrt(fan_in).
    """
    if name.endswith(NORM_GAINS):
        return Constant(1.0)
    if name.endswith("bias"):
        return Constant(0.0)
    if name.endswith(EMBEDDINGS):
        std = model.embedding_init_method_std
        return Normal(model.init_method_std if std is None else std)
    if model.init_method == "kaiming_uniform":
        return Uniform(1.0 / math.sqrt(fan_in))
    if name.endswith(OUTPUT_PROJECTIONS) and model.use_scaled_init_method:
        return Normal(model.init_method_std / math.sqrt(2.0 * model.num_layers))
    return Normal(model.init_method_std)
