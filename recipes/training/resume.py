"""What a run may not change when it goes on from a checkpoint of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.stored.description import description_of
from recipes.config.schema import PretrainConfig
from recipes.config.stored_options import stored_options
from recipes.errors import UserError

# What may change when a run is resumed: neither shapes nor the meaning of the weights hang on it.
FREE_MODEL_KEYS = ("hidden_dropout", "attention_dropout", "init_method_std", "use_scaled_init_method")


def check_resume(config: PretrainConfig, checkpoint: Path) -> int:
    """Compares the settings with the checkpoint's; returns the tokens that it was trained with.

    Raises:
        UserError: one differs that the rest of the run hangs on.
    """
    saved = load_plain(checkpoint / "common.pt")["recipes"]
    # The number of a sample is step x batch, and the seed decides the order of every epoch: with another of
    # them some samples would be trained twice and others never.
    for key, value in (
        ("trainer.global_batch_size", config.trainer.global_batch_size),
        ("data.seq_length", config.data.seq_length),
        ("seed", config.seed),
    ):
        # A checkpoint of an earlier version does not know its seed.
        used = saved.get(key.rpartition(".")[2], value)
        if used != value:
            raise UserError(f"{key}={value}: the run being resumed used {used}; keep it")
    _refuse_other_model(saved.get("model", {}), config)
    return int(saved["consumed_tokens"])


def _refuse_other_model(saved: dict[str, Any], config: PretrainConfig) -> None:
    # An older checkpoint holds all options for megatron-core, those that only say how a run computes too.
    saved = {**saved, "megatron": stored_options(saved.get("megatron", {}))}
    for key, value in description_of(config.model).items():
        if key in saved and key not in FREE_MODEL_KEYS and saved[key] != value:
            raise UserError(
                f"model.{key}={value}: the run being resumed used {saved[key]}; keep it, or choose a new name"
            )
