"""The nemo_inference.sh of a release: the project's own, with the path of the model beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.code_version import ROOT
from recipes.errors import UserError

NAME = "nemo_inference.sh"
UNSET = 'gpt_model_file="${gpt_model_file:-/path_to_.nemo_file}"'
PATIENCE_S = 3600


def write_script(folder: Path, model: str) -> None:
    """Writes the script; ``model`` is the model's name in ``folder``.

    Raises:
        UserError: the project's own is not there, as where only the package is installed.
    """
    source = ROOT / NAME
    if not source.is_file():
        raise UserError(f"{source}: no such file; release from a checkout of the project")
    script = source.read_text(encoding="utf-8")
    assert UNSET in script
    target = folder / NAME
    target.write_text(script.replace(UNSET, UNSET.replace("/path_to_.nemo_file", f"$here/{model}")), "utf-8")
    target.chmod(0o755)


@dataclass(frozen=True)
class Example:
    """A prompt, and what the model wrote."""

    prompt: str
    completion: str


def completions(folder: Path, prompts: Sequence[str], tokens: int, *, chat: bool = False) -> list[Example]:
    """What the script of a release writes after each prompt, greedily.

    It is run from within the folder, so that nothing but the folder and the environment's packages is used.

    Args:
        chat: prompts are what a user says.

    Raises:
        UserError: it ends with an error, or completes no prompt at all.
    """
    settings = ["inference.greedy=true", f"inference.tokens_to_generate={tokens}", "json=true"]
    done = subprocess.run(
        [f"./{NAME}", *settings, *(["chat=true"] if chat else []), "--", *prompts],
        cwd=folder,
        env={**_without_settings(), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=PATIENCE_S,
    )
    lines = [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]
    if done.returncode or len(lines) != len(prompts) or not any(line["completion"] for line in lines):
        said = " ".join((done.stderr.strip() or done.stdout).split())[-500:]
        raise UserError(f"{NAME} of the new folder completes nothing (exit code {done.returncode}): {said}")
    return [Example(prompt, line["completion"]) for prompt, line in zip(prompts, lines, strict=True)]


def _without_settings() -> dict[str, str]:
    """The environment without what the script would read from it."""
    read = ("gpt_model_file", "greedy", "temperature", "top_k", "top_p", "repetition_penalty", "add_BOS")
    return {key: value for key, value in os.environ.items() if key not in (*read, "tokens_to_generate")}
