"""What is written after nemo_inference.sh: prompts, settings of recipes.generate, and NeMo's own settings."""

from __future__ import annotations

import math
import os
import re
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping

from recipes.cli import run_tool
from recipes.config.command_line import refuse_flag
from recipes.config.devices import has_gpu
from recipes.config.explain import no_such_key
from recipes.config.foreign_keys import FOREIGN_VALUES, foreign_key
from recipes.config.jobs import SCHEMAS
from recipes.config.meanings import settings_of
from recipes.config.overrides import in_quotes
from recipes.console import warn
from recipes.errors import UserError

ASSIGNMENT = re.compile(r"\+{0,2}~?([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
FLAG = re.compile(r"--[A-Za-z][\w-]*(=.*)?", re.DOTALL)
# Sections of NeMo's configuration beside ours: whoever writes one means a setting.
SECTIONS = ("trainer", "hydra", "chatbot_config")
AS_WE_DO = {
    "trainer.devices": ("-1",),
    "trainer.num_nodes": ("1",),
    "trainer.accelerator": ("gpu", "auto", "cpu"),
    "trainer.logger": ("false",),
    "trainer.enable_checkpointing": ("false",),
    "trainer.use_distributed_sampler": ("false",),
    "checkpoint_dir": ("null",),
    "checkpoint_name": ("null",),
    "hparams_file": ("null",),
    "web_server": ("false",),
    "share": ("false",),
    "username": ("test",),
    "password": ("test2",),
    "web_port": ("9889",),
    "micro_batch_size": ("-1", "1"),
    "megatron_amp_O2": ("true", "false"),
    "pipeline_model_parallel_split_rank": ("-1", "0", "null"),
    "expert_model_parallel_size": ("-1", "1"),
    "context_parallel_size": ("1",),
}
"""NeMo's settings with values that ask for nothing else than what happens anyway."""
SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size")


def complete(arguments: list[str]) -> None:
    """Runs recipes.generate; does not return.

    Args:
        arguments: the model, then what the user wrote.
    """
    run_tool(lambda: _become(arguments))
    raise AssertionError


def _become(arguments: list[str]) -> None:
    model, *written = arguments
    os.environ["NEMO_MODEL"] = model  # Its characters mean nothing to Hydra there.
    sys.argv = ["nemo_inference.sh", "gpt_model_file=${oc.env:NEMO_MODEL}", *as_settings(written)]
    _choose_accelerator(written)
    runpy.run_module("recipes.generate", run_name="__main__")


def as_settings(written: Iterable[str]) -> list[str]:
    """Settings as recipes.generate takes them, with all prompts as one of them.

    Everything is a prompt but what begins like a setting, ``key=`` or ``section.key=``; after ``--``,
    everything is.

    Raises:
        UserError: a word looks like a setting that does not exist or like an option, or prompts are given in
            two ways.
    """
    settings: list[str] = []
    prompts: list[str] = []
    setting: str | None = None
    words = list(written)
    given = _given(words)
    for number, argument in enumerate(words):
        if argument == "--":
            prompts += words[number + 1 :]
            break
        if FLAG.fullmatch(argument):
            refuse_flag("generate", words, number)
        if (match := ASSIGNMENT.fullmatch(argument)) and _is_setting(argument, match[1]):
            if match[1] == "prompts":
                setting = argument
            settings += _ours(argument, match[1], match[2], given)
        else:
            prompts.append(argument)
    if prompts and setting is not None:
        raise UserError(f"{setting}: prompts are given as words, too ({prompts[0][:50]!r} ...); take one way")
    if prompts:
        settings.append(f"prompts=[{','.join(in_quotes(prompt) for prompt in prompts)}]")
    return settings


def _choose_accelerator(written: list[str]) -> None:
    """Before torch is imported: the setting of NeMo's that may ask for what would not happen anyway."""
    if "trainer.accelerator=cpu" in written:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif "trainer.accelerator=gpu" in written and not has_gpu():
        warn("trainer.accelerator=gpu: there is no GPU here; the CPU computes")


def _is_setting(argument: str, key: str) -> bool:
    known = settings_of(SCHEMAS["generate"])
    if key in known or key in AS_WE_DO:
        return True
    section = key.partition(".")[0]
    if "." in key and (section in SECTIONS or section in known):
        return True
    if argument.split() != [argument]:
        return False  # A sentence.
    nested = f"inference.{key}"
    if nested in known:
        reason = f"no setting is called {key}, but {nested} is"
    elif foreign_key("generate", key):
        reason = no_such_key("generate", key).removeprefix(f"{key}: ").rstrip(".")
    else:
        reason = f"no setting is called {key}"
    raise UserError(f"{argument}: {reason}; to complete it as a prompt, write -- before it")


def _given(words: list[str]) -> dict[str, str]:
    """The values of all that is written as a setting."""
    before = words[: words.index("--")] if "--" in words else words
    return {match[1]: _plain(match[2]) for word in before if (match := ASSIGNMENT.fullmatch(word))}


def _plain(value: str) -> str:
    return value.strip("'\"")


def _ours(argument: str, key: str, value: str, given: Mapping[str, str]) -> Iterator[str]:
    plain = _plain(value)
    if key == "gpt_model_file":
        return  # The script has passed it on.
    if key == "trainer.precision":
        precision = FOREIGN_VALUES.get(plain, plain)
        if precision == "fp16":
            raise UserError(
                f"{argument}: completion computes in bf16 or fp32; write one of those, or leave it out"
            )
        yield f"precision={precision}"
    elif key.startswith("chatbot_config."):
        return  # Of NeMo's web page.
    elif key == "trainer.devices" and re.fullmatch(r"[1-9]\d{0,3}", plain):
        _check_devices(int(plain), [given.get(size, "1") for size in SIZES])
    elif plain.lower() not in AS_WE_DO.get(key, ()):
        yield argument


def _check_devices(devices: int, sizes: list[str]) -> None:
    """Here a model's layout says how many processes are started; NeMo wants the number besides.

    Raises:
        UserError: it is another number.
    """
    if "-1" in sizes:
        if devices > 1:
            warn(f"trainer.devices={devices}: as many processes are started as the model's file says")
    elif all(size.isdigit() for size in sizes) and math.prod(map(int, sizes)) != devices:
        layout = ", ".join(f"{key}={size}" for key, size in zip(SIZES, sizes, strict=True))
        raise UserError(
            f"trainer.devices={devices}: {layout} say how many processes are started, which are "
            f"{math.prod(map(int, sizes)):,}; change those, and leave trainer.devices out"
        )
