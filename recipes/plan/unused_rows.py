"""Parameters that no token of the tokenizer ever uses. No torch here."""

from __future__ import annotations

from recipes.config.schema import PretrainConfig
from recipes.families.family import tensor_table
from recipes.families.model_config import AUTO
from recipes.families.tensors import POSITIONS
from recipes.plan.accounting import count_parameters

WORTH_SAYING = 1_000_000
"""Fewer unused parameters cost little, as does less than a fiftieth of a large model."""


def unused_rows(config: PretrainConfig, pieces: int) -> str | None:
    """A warning if many of the vocabulary's rows have no token; ``pieces`` is the tokenizer's size."""
    model = config.model
    rows = model.vocab_size - pieces
    columns = sum(spec.shape[1] for spec in tensor_table(model) if spec.table and spec.part != POSITIONS)
    total = count_parameters(model).total
    if rows * columns < max(WORTH_SAYING, total // 50):
        return None
    return (
        f"model.vocab_size={model.vocab_size:,}, but tokenizer.model has {pieces:,} pieces: "
        f"{rows * columns / 1e6:,.1f}M of {total / 1e6:,.1f}M parameters are never used; "
        f"set model.vocab_size={AUTO} for a new run"
    )
