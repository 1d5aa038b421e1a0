"""The size of a model's vocabulary, where it is that of its tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recipes.checks import refuse
from recipes.config.schema import PretrainConfig
from recipes.data.tokenizer.load import load_tokenizer
from recipes.families.model_config import AUTO


def with_vocab_size(config: PretrainConfig) -> PretrainConfig:
    """The configuration with ``model.vocab_size=auto`` replaced by the tokenizer's number of pieces.

    The stored tables are padded as for any other size, see make_vocab_size_divisible_by.

    Raises:
        UserError: there is no tokenizer to ask.
    """
    if config.model.vocab_size != AUTO:
        return config
    path = config.tokenizer.model
    if path is None or not Path(path).exists():
        fix = f"asks tokenizer.model={path}, which is not there; train it first, or write a number"
        refuse("model.vocab_size", AUTO, fix)
    return replace(config, model=replace(config.model, vocab_size=load_tokenizer(path).vocab_size))
