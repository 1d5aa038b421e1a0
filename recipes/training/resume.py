"""The settings that a run must keep when it resumes from one of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.stored.description import description_of
from recipes.config.phases import sources_in_use
from recipes.config.schema import PretrainConfig
from recipes.config.stored_options import stored_options
from recipes.data.samples.skip import Skip
from recipes.data.samples.source_files import open_source, shown_path
from recipes.errors import UserError

# May change when a run is resumed: neither shapes nor the meaning of the weights depend on them.
FREE_MODEL_KEYS = ("hidden_dropout", "attention_dropout", "init_method_std", "use_scaled_init_method")


def check_resume(config: PretrainConfig, checkpoint: Path, left_out: list[list[int]]) -> int:
    """Compares the settings with the checkpoint's; returns the tokens that it was trained with.

    ``left_out``: data.skip, and the samples of loss spikes.

    Raises:
        UserError: a setting differs that the rest of the run depends on.
    """
    saved = load_plain(checkpoint / "common.pt")["recipes"]
    # A sample's number is step x batch, and the seed decides the order of every epoch: if one of these
    # changed, some samples would be trained on twice and others never.
    for key, value in (
        ("trainer.global_batch_size", config.trainer.global_batch_size),
        ("data.seq_length", config.data.seq_length),
        ("seed", config.seed),
    ):
        # Checkpoints of earlier versions do not hold the seed.
        used = saved.get(key.rpartition(".")[2], value)
        if used != value:
            raise UserError(f"{key}={value}: the run being resumed used {used}; keep it")
    _refuse_other_model(saved.get("model", {}), config)
    _refuse_other_past(saved, left_out)
    for name, now in changed_sources(config, saved.get("data", {})).items():
        source, before = config.data.train[name], saved["data"][name]
        if not source.restart:
            raise UserError(
                f"data.train.{name}.path={shown_path(source.path)}: its content has changed since the run "
                f"was saved ({before['tokens']:,} tokens then, {now['tokens']:,} now); restore it, or set "
                f"data.train.{name}.restart=true to begin with its first sample again"
            )
    return int(saved["consumed_tokens"])


def _refuse_other_past(saved: dict[str, Any], left_out: list[list[int]]) -> None:
    """Refuses a data.skip by which samples that were read had been left out, or the other way round."""
    before = Skip(saved.get("skip", []))
    reached = before.sample(int(saved["consumed_samples"]))
    if before.before(reached) != Skip(left_out).before(reached):
        raise UserError(
            f"data.skip={left_out}: the run being resumed has read the samples before {reached:,} "
            f"and left out {before.before(reached)} of them; keep these, or move checkpoints away to resume "
            "earlier"
        )


def data_record(config: PretrainConfig) -> dict[str, dict[str, Any]]:
    """A checkpoint's record of the sources in use: a key of the content, and the number of tokens."""
    sources = {name: open_source(config.data.train[name].path) for name in sources_in_use(config.data)}
    return {name: {"content": source.content(), "tokens": source.tokens} for name, source in sources.items()}


def changed_sources(config: PretrainConfig, saved: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Current records of those sources in the checkpoint whose content has changed."""
    return {
        name: now
        for name, now in data_record(config).items()
        if name in saved and now["content"] != saved[name]["content"]
    }


def _refuse_other_model(saved: dict[str, Any], config: PretrainConfig) -> None:
    # Older checkpoints hold all options for megatron-core, including those that only say how a run computes.
    saved = {**saved, "megatron": stored_options(saved.get("megatron", {}))}
    for key, value in description_of(config.model).items():
        if key in saved and key not in FREE_MODEL_KEYS and saved[key] != value:
            raise UserError(
                f"model.{key}={value}: the run being resumed used {saved[key]}; keep it, or choose a new name"
            )
