"""Which jobs besides pretraining are launched, and what each of them asks a cluster for."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipes.errors import UserError

PRETRAIN = "pretrain"


@dataclass(frozen=True)
class JobKind:
    """A job and its tasks.

    Attributes:
        module: what stands after ``python -m``.
        tasks: ``gpus``: one for each GPU of all nodes, which share the work; ``array``: an array with an
            element for each node, each of which takes its share by itself; ``one``: a single one; ``own``:
            it submits its stages itself.
        settings: takes settings (``key=value``), not a tool's flags.
    """

    module: str
    tasks: Literal["gpus", "array", "one", "own"]
    settings: bool = False


KINDS = {
    "evaluate": JobKind("recipes.evaluate", "gpus", settings=True),
    "clean": JobKind("tools.clean", "own", settings=True),
    "preprocess": JobKind("tools.preprocess", "array"),
    **{
        name: JobKind(f"tools.{name}", "one")
        for name in (
            *("average", "convert", "download", "pack", "prefetch_benchmarks", "prepare_chats", "release"),
            *("tokenizer_report", "train_tokenizer"),
        )
    },
}


def kind_of(job: str) -> JobKind:
    """The kind that ``job=`` names.

    Raises:
        UserError: there is none.
    """
    if job not in KINDS:
        raise UserError(f"job={job}: choose {PRETRAIN} or one of {', '.join(sorted(KINDS))}")
    return KINDS[job]


def job_directory(job: str, arguments: list[str]) -> Path:
    """Where a job's logs are: the same for the same command, so that it is found again."""
    digest = hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:8]
    return Path("outputs/jobs") / f"{job}-{digest}"
