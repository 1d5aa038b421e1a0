"""The model that a benchmark of completion is told to measure."""

from __future__ import annotations

import argparse

from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError


def described(options: argparse.Namespace) -> PretrainConfig:
    """What ``options.overrides`` describe.

    Raises:
        UserError: they are wrong, or the model does not read ``options.prompt`` and ``options.new`` tokens.
    """
    config = compose("pretrain", options.overrides)
    longest = config.model.max_position_embeddings
    if options.prompt + options.new > longest:
        raise UserError(f"--prompt {options.prompt} --new {options.new}: the model reads {longest} tokens")
    return config
