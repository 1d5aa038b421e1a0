"""data.reset_attention_mask: where documents cannot be attended separately. No torch here."""

from __future__ import annotations

import importlib.util

from recipes.checks import refuse
from recipes.config.schema import PretrainConfig

KEY = "data.reset_attention_mask"


def validate_separate_documents(config: PretrainConfig) -> None:
    """Refuses it where attention would not heed it."""
    if not config.data.reset_attention_mask:
        return
    size = config.parallel.context_parallel_size
    if size > 1:
        refuse(KEY, True, f"parallel.context_parallel_size={size} splits every sequence; set it to 1")
    # A run may be planned where it cannot be trained.
    if not config.dry_run and importlib.util.find_spec("transformer_engine") is not None:
        refuse(
            KEY, True, "Transformer Engine's attention is not told where documents start; run it without that"
        )


def refuse_dropout_on_gpu(config: PretrainConfig, on_gpu: bool) -> None:
    """The GPU's kernels for separate documents have no dropout."""
    dropout = config.model.attention_dropout
    if config.data.reset_attention_mask and on_gpu and dropout > 0:
        refuse(KEY, True, f"has no dropout on a GPU: set model.attention_dropout=0, which is {dropout}")
