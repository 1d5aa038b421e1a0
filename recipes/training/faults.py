"""Faults on purpose: what goes wrong on which rank at which step, from an environment variable.

They try a run's guards, on a laptop or on the cluster that the run will be on:

    RECIPES_FAULTS="nan:rank=1,step=3; hang:step=9" torchrun --nproc-per-node 2 -m recipes.pretrain ...

A run that is started again meets its faults again, unless they say ``once=1``. Without the variable nothing
of this is loaded but this file. No torch here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from recipes.checks import one_of
from recipes.counts import counted
from recipes.errors import UserError

VARIABLE = "RECIPES_FAULTS"
KINDS = {
    "nan": "the rank's gradients are NaN before the update",
    "exception": "an exception before the step",
    "hang": "the rank stands still before the step",
    "kill": "SIGKILL before the step",
    "terminate": "SIGTERM to the rank before the step",
    "slow": "the rank waits for `seconds` before each step",
    "corrupted_batch": "the rank's samples are random tokens",
    "corrupted_samples": "samples `sample` to `last`, as metrics.jsonl numbers them, are random tokens",
    "flipped_bit": "a bit of the rank's weights is flipped after the step",
    "full_disk": "from the step on, no file of the rank can grow beyond `bytes`",
    "damaged_checkpoint": "before the step, a bit of the newest checkpoint is flipped on the disk",
}
WHEN_AND_WHERE = ("step", "until", "rank", "once")
OPTIONS = {
    "slow": (*WHEN_AND_WHERE, "seconds"),
    "full_disk": ("step", "rank", "once", "bytes"),
    "corrupted_samples": ("sample", "last"),
}
"""Of the kinds that do not have just those of all others."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    step: int
    """The first step, counted from 1."""
    until: int
    """The last step."""
    rank: int = 0
    seconds: float = 1.0
    """slow: of each step."""
    bytes: int = 0
    """full_disk: the largest size of a file."""
    sample: int = -1
    """corrupted_samples: the first, on whichever rank and at whichever step it is read."""
    last: int = -1
    once: int = 0
    """1: not again when the run is started again; a file in its logs/ remembers it."""

    @property
    def mark(self) -> str:
        """The name of that file. When the fault begins, it appears."""
        return f"fault_{self.kind}_rank_{self.rank}_step_{self.step}"

    def at(self, step: int) -> bool:
        return self.step <= step <= self.until


def parse_faults(environment: Mapping[str, str]) -> list[Fault]:
    """The faults that the environment asks for: ``KIND:step=N[,until=N][,rank=R][,...]``, separated by ";".

    Raises:
        UserError: one is not spelled like that.
    """
    text = environment.get(VARIABLE, "")
    return [_parse(part.strip()) for part in text.split(";") if part.strip()]


def refuse_those_that_never_come(faults: list[Fault], steps: int, processes: int) -> None:
    """A guard would seem to have passed a trial that never was.

    Raises:
        UserError: a fault is of a step or a rank that the run does not have.
    """
    for fault in faults:
        if fault.kind == "corrupted_samples":
            continue
        if fault.rank >= processes:
            there = counted(processes, "process", "processes")
            raise UserError(f"{VARIABLE}: {fault.kind}: rank={fault.rank:,}: the run has {there}, from 0 on")
        if fault.step > steps:
            there = counted(steps, "step")
            raise UserError(f"{VARIABLE}: {fault.kind}: step={fault.step:,}: the run has {there}")


def _parse(text: str) -> Fault:
    kind, _, options = text.partition(":")
    one_of(VARIABLE, kind.strip(), tuple(KINDS))
    keys = OPTIONS.get(kind.strip(), WHEN_AND_WHERE)
    values: dict[str, float] = {}
    for option in filter(None, (each.strip() for each in options.split(","))):
        key, _, value = option.partition("=")
        one_of(f"{VARIABLE}: {kind.strip()}: option", key.strip(), keys)
        try:
            number = float(value) if key.strip() == "seconds" else int(value)
        except ValueError:
            raise UserError(f"{VARIABLE}: {kind}: {option}: write {key}=NUMBER") from None
        if number < 0:
            raise UserError(f"{VARIABLE}: {kind}: {option}: must not be negative")
        values[key.strip()] = number
    for first, last, least in (("step", "until", 1), ("sample", "last", 0)):
        if values.get(first, least) < least:
            raise UserError(f"{VARIABLE}: {text}: {first}s count from {least}")
        if values.get(last, math.inf) < values.get(first, 0):
            raise UserError(f"{VARIABLE}: {text}: {last} comes before {first}")
    if values.get("once", 0) > 1:
        raise UserError(f"{VARIABLE}: {text}: write once=0 or once=1")
    if kind.strip() == "corrupted_samples":
        if not {"sample", "last"} <= values.keys():
            raise UserError(f"{VARIABLE}: {text}: sample=N,last=M are missing, the samples that are meant")
        values = {"step": 1, "until": sys.maxsize} | values
    if "step" not in values:
        raise UserError(f"{VARIABLE}: {text}: step=N is missing, the step at which it happens")
    return Fault(kind.strip(), **({"until": values["step"]} | values))  # type: ignore[arg-type]
