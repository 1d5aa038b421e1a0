"""The settings that a run must keep when it resumes from one of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.stored.description import description_of
from recipes.config.phases import model_after, sources_in_use
from recipes.config.schema import PretrainConfig
from recipes.config.stored_options import stored_options
from recipes.config.timeline import Timeline, timeline_of
from recipes.console import warn
from recipes.data.samples.skip import Skip
from recipes.data.samples.source_files import open_source, shown_path
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig

# May change when a run is resumed: neither shapes nor the meaning of the weights depend on them.
FREE_MODEL_KEYS = ("hidden_dropout", "attention_dropout", "init_method_std", "use_scaled_init_method")


def check_resume(config: PretrainConfig, checkpoint: Path, left_out: list[list[int]]) -> int:
    """Compares the settings with the checkpoint's; returns the tokens that it was trained with.

    ``left_out``: data.skip, and the samples of loss spikes.

    Raises:
        UserError: a setting differs that the rest of the run depends on.
    """
    saved = load_plain(checkpoint / "common.pt")["recipes"]
    # The seed decides the order of every epoch: with another one some samples would be trained on twice and
    # others never. Checkpoints of earlier versions do not hold it.
    if (used := saved.get("seed", config.seed)) != config.seed:
        raise UserError(f"seed={config.seed}: the run being resumed used {used}; keep it")
    _refuse_other_sizes(saved, config, step_of(checkpoint))
    _refuse_other_model(saved.get("model", {}), model_after(config, step_of(checkpoint)))
    _refuse_other_past(saved, left_out)
    for name, now in changed_sources(config, saved.get("data", {})).items():
        source, before = config.data.train[name], saved["data"][name]
        if not source.restart:
            raise UserError(
                f"data.train.{name}.path={shown_path(source.path)}: its content has changed since the run "
                f"was saved ({before['tokens']:,} tokens then, {now['tokens']:,} now); restore it, or set "
                f"data.train.{name}.restart=true to begin with its first sample again"
            )
    _warn_of_other_held_out_text(config, saved.get("held_out", {}))
    return int(saved["consumed_tokens"])


def sizes_until(timeline: Timeline, steps: int) -> list[list[int]]:
    """A checkpoint's record of its steps' sizes: [first step, global batch size, sequence length], ..."""
    sizes: list[list[int]] = []
    for each in timeline.before(steps):
        if not sizes or sizes[-1][1:] != [each.global_batch_size, each.seq_length]:
            sizes.append([each.first_step, each.global_batch_size, each.seq_length])
    return sizes


def _refuse_other_sizes(saved: dict[str, Any], config: PretrainConfig, steps: int) -> None:
    """Refuses settings by which the steps that are done would have had other samples."""
    # Checkpoints of earlier versions are of runs whose steps have one size.
    used = saved.get("sizes") or [[0, saved["global_batch_size"], saved["seq_length"]]]
    asked = sizes_until(timeline_of(config), steps)
    if asked == used:
        return
    if not config.phases and len(used) == 1:
        for key, value, before in (
            ("trainer.global_batch_size", config.trainer.global_batch_size, used[0][1]),
            ("data.seq_length", config.data.seq_length, used[0][2]),
        ):
            if value != before:
                raise UserError(
                    f"{key}={value}: the run being resumed used {before}; keep it, or change it from step "
                    f"{steps:,} on with phases"
                )
    raise UserError(
        f"phases: the {steps:,} steps of the run being resumed had {_sizes_in_words(used)}, these settings "
        f"give them {_sizes_in_words(asked)}; keep the phases up to there"
    )


def _sizes_in_words(sizes: list[list[int]]) -> str:
    """Global batch sizes x sequence lengths, and since when."""
    return ", ".join(
        f"{batch:,} x {length:,}" + (f" from step {first + 1:,}" if first else "")
        for first, batch, length in sizes
    )


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint's run has done."""
    return int(checkpoint.name.removeprefix("step_"))


def _refuse_other_past(saved: dict[str, Any], left_out: list[list[int]]) -> None:
    """Refuses a data.skip by which samples that were read had been left out, or the other way round."""
    before = Skip(saved.get("skip", []))
    reached = before.sample(int(saved["consumed_samples"]))
    if before.before(reached) != Skip(left_out).before(reached):
        raise UserError(
            f"data.skip={left_out}: the run being resumed has read the samples before {reached:,} "
            f"and left out {before.before(reached) or 'none'} of them; keep it so, or move checkpoints away "
            "to resume earlier"
        )


def data_record(config: PretrainConfig) -> dict[str, dict[str, Any]]:
    """A checkpoint's record of the sources in use: a key of the content, and the number of tokens."""
    return _records({name: config.data.train[name].path for name in sources_in_use(config)})


def held_out_record(config: PretrainConfig) -> dict[str, dict[str, Any]]:
    """The same of the held-out sets."""
    return _records(config.data.valid)


def _records(paths: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    sources = {name: open_source(path) for name, path in paths.items()}
    return {name: {"content": source.content(), "tokens": source.tokens} for name, source in sources.items()}


def _warn_of_other_held_out_text(config: PretrainConfig, saved: dict[str, dict[str, Any]]) -> None:
    """Training does not depend on it, but its curve would seem to be one, and keep_best goes by it."""
    for name, now in _changed(held_out_record(config), saved).items():
        warn(
            f"data.valid.{name}={config.data.valid[name]}: its content has changed since the run was "
            f"saved ({saved[name]['tokens']:,} tokens then, {now['tokens']:,} now): its figures cannot be "
            "compared with those before, by trainer.checkpoint.keep_best either"
        )


def changed_sources(config: PretrainConfig, saved: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Current records of those sources in the checkpoint whose content has changed."""
    return _changed(data_record(config), saved)


def _changed(records: dict[str, Any], saved: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: now
        for name, now in records.items()
        if name in saved and now["content"] != saved[name]["content"]
    }


def _refuse_other_model(saved: dict[str, Any], model: ModelConfig) -> None:
    # Older checkpoints hold all options for megatron-core, including those that only say how a run computes.
    saved = {**saved, "megatron": stored_options(saved.get("megatron", {}))}
    for key, value in description_of(model).items():
        if key in saved and key not in FREE_MODEL_KEYS and saved[key] != value:
            raise UserError(
                f"model.{key}={value}: the run being resumed used {saved[key]}; keep it, or choose a new name"
            )
