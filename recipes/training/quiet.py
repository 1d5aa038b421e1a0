"""Keeps library messages that users can do nothing about off the console."""

from __future__ import annotations

import logging
import os
import warnings

NOISY = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "megatron",
    "nemo_logger",
    "nv_one_logger",
    "torch.distributed",
)


def quiet_libraries() -> None:
    """Warnings and information off, errors on; RECIPES_VERBOSE=1 leaves everything as it is."""
    if os.environ.get("RECIPES_VERBOSE"):
        return
    warnings.filterwarnings("ignore")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
