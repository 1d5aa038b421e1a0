"""A command with the variables that are set for it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """What is run: on Slurm in the project directory, on this machine where the user is."""

    words: Sequence[str]
    env: Mapping[str, str]

    def __str__(self) -> str:
        """As it can be pasted into a shell."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*assignments, shlex.join(self.words)])

    def replace_process(self) -> None:
        """Becomes the command; its signals, streams and exit code are then those of this process.

        Raises:
            UserError: there is no such program.
        """
        try:
            os.execvpe(self.words[0], list(self.words), os.environ | dict(self.env))
        except OSError as error:
            raise UserError(f"{self.words[0]}: cannot be started: {error.strerror}") from None

    def output(self, within_s: float | None = None) -> str:
        """Runs it in the project directory and returns what it prints.

        Raises:
            UserError: there is no such program, it fails, or it does not end in time.
        """
        environment = os.environ | dict(self.env)
        try:
            done = subprocess.run(
                list(self.words),
                cwd=PROJECT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=within_s,
            )
        except OSError as error:
            raise UserError(f"{self.words[0]}: cannot be started: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise UserError(f"{self.words[0]} has not ended within {within_s} s") from None
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            raise UserError(f"{self.words[0]} ended with {done.returncode}: {said}")
        return done.stdout
