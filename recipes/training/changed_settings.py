"""What a command asks of a run that was started with other settings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recipes.config.run_directory import resolved_yaml
from recipes.config.schema import PretrainConfig
from recipes.config.stored_options import STORED_OPTIONS
from recipes.console import say
from recipes.errors import UserError
from recipes.run_directory import RunDirectory

LENGTHS = ("trainer.max_steps", "trainer.max_tokens")
# Neither the weights nor the final figures depend on these.
FREE = (
    "name",
    "output_dir",
    "data_dir",
    "resume",
    "logger",
    "wandb.*",
    "save_nemo",
    "dry_run",
    # Resumes compare the content of the sources, and every start their tokenizer with the run's.
    "tokenizer.model",
    "data.train.*.path",
    "data.index_cache_dir",
    "data.num_workers",
    # The order of samples, initial weights and batches are the same under every layout.
    "parallel.*",
    "trainer.micro_batch_size",
    "phases.*.micro_batch_size",
    "phases.*.name",
    "trainer.max_time",
    "trainer.log_every_n_steps",
    "trainer.log_details_every_n_steps",
    "trainer.val_check_interval",
    "trainer.num_threads",
    "trainer.peak_tflops",
    "trainer.compile",
    "trainer.checkpoint.*",
    "trainer.guards.*",
    "trainer.samples.*",
    "plan.*",
)
SHOWN = 4
"""Differences that a message shows."""


class Difference(NamedTuple):
    key: str
    used: Any
    """The run's value; None: it has none."""
    asked: Any

    def __str__(self) -> str:
        return f"{self.key} {_as_yaml(self.used)} -> {_as_yaml(self.asked)}"

    @property
    def decides(self) -> bool:
        """Whether the run's result depends on the setting."""
        if self.key.startswith("model.megatron."):
            return self.key.split(".")[2] in STORED_OPTIONS
        return not any(fnmatchcase(self.key, pattern) for pattern in FREE)


def settings_record(config: PretrainConfig) -> dict[str, Any]:
    """A checkpoint's record of the settings that it was made with."""
    record: dict[str, Any] = yaml.safe_load(resolved_yaml(config))
    return record


def changed_settings(config: PretrainConfig, directory: RunDirectory) -> list[Difference]:
    """Where the settings differ from those in the run directory; none if nothing is recorded.

    Keys that the recorded file does not have, because an earlier version wrote it, do not count.

    Raises:
        UserError: the recorded file is no plain YAML.
    """
    from recipes.checkpoint.save.open_run import run_config  # Here, as it loads torch.

    used = run_config(directory.path)
    return _differences(config, used, settings_record(config), "") if used else []


def changed_since(config: PretrainConfig, directory: RunDirectory, checkpoint: Path) -> list[Difference]:
    """Where the settings differ from those that a checkpoint was made with.

    These may be others than the run directory's, if a start in between has saved nothing. Checkpoints of
    earlier versions do not hold them: then the run directory's count.
    """
    from recipes.checkpoint.formats.safety import load_plain  # Here, as it loads torch.

    used = load_plain(checkpoint / "common.pt")["recipes"].get("settings")
    if used is None:
        return changed_settings(config, directory)
    return _differences(config, used, settings_record(config), "")


def _differences(schema: Any, used: Any, asked: Any, prefix: str) -> list[Difference]:
    """``schema`` is what ``asked`` was written from: it tells a group of settings from a dictionary."""
    if _is_list_of_settings(schema) and isinstance(used, list) and isinstance(asked, list):
        return _differences_of_entries(schema, used, asked, prefix)
    if not (isinstance(used, Mapping) and isinstance(asked, Mapping)):
        return [] if used == asked or _same_path(used, asked) else [Difference(prefix[:-1], used, asked)]
    found = []
    typed = dataclasses.is_dataclass(schema)
    for key in asked if typed else dict.fromkeys([*used, *asked]):
        if typed and key not in used:
            continue
        part = getattr(schema, key) if typed else schema.get(key)
        found += _differences(part, used.get(key), asked.get(key), f"{prefix}{key}.")
    return found


def _same_path(used: Any, asked: Any) -> bool:
    """Two spellings of one place: relative and absolute, or by a link."""
    texts = isinstance(used, str) and isinstance(asked, str)
    return texts and os.path.realpath(used) == os.path.realpath(asked)


def _is_list_of_settings(schema: Any) -> bool:
    return isinstance(schema, list) and any(dataclasses.is_dataclass(entry) for entry in schema)


def _differences_of_entries(
    schema: list[Any], used: list[Any], asked: list[Any], prefix: str
) -> list[Difference]:
    """Entry by entry, numbered as in overrides; of new and of removed ones what they set."""
    found = []
    for number in range(max(len(used), len(asked))):
        key = f"{prefix}{number}"
        if number < min(len(used), len(asked)):
            found += _differences(schema[number], used[number], asked[number], f"{key}.")
            continue
        defaults = dataclasses.asdict(type(schema[0])())
        before, now = (
            {name: value for name, value in each[number].items() if value != defaults.get(name)}
            if number < len(each)
            else None
            for each in (used, asked)
        )
        found.append(Difference(key, before, now))
    return found


def refuse_another_run(config: PretrainConfig, directory: RunDirectory, done: int, steps: int) -> str:
    """For a run of which nothing is left to train: it must be the one that is asked for.

    Args:
        config: the settings that are asked for.
        directory: the run's.
        done: steps that the run has.
        steps: steps that are asked for, at most as many.

    Returns:
        The changed settings that its result does not depend on, in words; empty if there are none.

    Raises:
        UserError: it is another run, with the settings that differ.
    """
    changed = changed_settings(config, directory)
    # A run that was stopped early may be ended where it is, by asking for just so many steps.
    deciding = [
        change for change in changed if change.decides and (change.key not in LENGTHS or done > steps)
    ]
    if deciding:
        raise UserError(
            f"{directory.path} holds {done:,} finished steps with other settings: {_listed(deciding)}; set "
            f"name=... for a new run, or a larger {_length_key(config)} to continue this one with them"
        )
    return _listed([change for change in changed if change.key not in LENGTHS])


def announce_changes(config: PretrainConfig, directory: RunDirectory, checkpoint: Path) -> None:
    """Says which settings a resumed run goes on with that its checkpoint was not made with: all of them."""
    deciding = [change for change in changed_since(config, directory, checkpoint) if change.decides]
    if not deciding:
        return
    if len(deciding) == 1:
        say(f"{directory.path} goes on with changed settings: {deciding[0]}")
        return
    say(f"{directory.path} goes on with {len(deciding)} changed settings:")
    for change in deciding:
        say(f"       {change}")


def _listed(changes: list[Difference]) -> str:
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return ", ".join(map(str, changes[:SHOWN])) + more


def _length_key(config: PretrainConfig) -> str:
    return LENGTHS[0] if config.trainer.max_steps is not None else LENGTHS[1]


def _as_yaml(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()
