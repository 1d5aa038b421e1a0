"""Where documents and conversations cannot be attended separately. No torch here."""

from __future__ import annotations

import importlib.util

from recipes.checks import one_of, refuse
from recipes.config.data_schema import DataConfig
from recipes.config.schema import PretrainConfig

KEY = "data.reset_attention_mask"


def validate_conversations(data: DataConfig) -> None:
    """Checks how conversations are read."""
    one_of("data.loss_on", data.loss_on, ("assistant", "all"))
    if data.conversations:
        if data.packing and not data.reset_attention_mask:
            refuse(
                KEY, False, "packed conversations would see each other: set it to true, or data.packing=false"
            )
        if data.eod_mask_loss:
            refuse("data.eod_mask_loss", True, "would be ignored: data.loss_on says what counts")
        return
    for key, default in (("packing", True), ("loss_on", "assistant")):
        if (value := getattr(data, key)) != default:
            refuse(f"data.{key}", value, "would be ignored: set data.conversations=true")


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
