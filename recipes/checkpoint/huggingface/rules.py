"""How one stored tensor of ours becomes tensors of a Hugging Face model, and back.

Ours are megatron-core's, per layer and expert, under Transformer Engine's names
(recipes/checkpoint/sources/names.py). In every rule rows move in runs and are not changed: a rule says where
each run of rows lies on both sides, and is read in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recipes.config.schema import ModelConfig
from recipes.model.accounting import kv_channels, num_query_groups, padded_vocab_size

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """``rows`` rows: from ``start`` on in the tensor ``which`` of theirs, from ``place`` on in ours."""

    which: int
    start: int
    place: int
    rows: int


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and the tensors that it holds there."""

    ours: str
    shape: Shape
    """Of ours. Rows in no run are padding: they stay here, and come back as zeros."""
    theirs: tuple[str, ...]
    runs: tuple[Run, ...]

    def shapes(self) -> list[Shape]:
        """Of theirs, in their order."""
        rows = [0] * len(self.theirs)
        for run in self.runs:
            rows[run.which] += run.rows
        return [(count, *self.shape[1:]) for count in rows]

    def padding(self) -> int:
        """Rows of ours, the last ones, that no tensor of theirs has."""
        return self.shape[0] - sum(run.rows for run in self.runs)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Ours -> theirs."""
        parts: list[list[Tensor]] = [[] for _ in self.theirs]
        for run in sorted(self.runs, key=lambda run: run.start):
            parts[run.which].append(tensor[run.place : run.place + run.rows])
        return [torch.cat(part) for part in parts]

    def merge(self, tensors: Sequence[Tensor]) -> Tensor:
        """Theirs -> ours."""
        merged = tensors[0].new_zeros(self.shape)
        for run in self.runs:
            merged[run.place : run.place + run.rows] = tensors[run.which][run.start : run.start + run.rows]
        return merged

    def under(self, ours: str, theirs: str) -> Rule:
        """The same with prefixes before the names."""
        return replace(self, ours=ours + self.ours, theirs=tuple(theirs + name for name in self.theirs))

    def elements(self) -> int:
        """Numbers of ours."""
        return math.prod(self.shape)


def same(ours: str, theirs: str, shape: Shape) -> Rule:
    """Only the name differs."""
    return Rule(ours, shape, (theirs,), (Run(0, 0, 0, shape[0]),))


def vocabulary(ours: str, theirs: str, columns: int, model: ModelConfig) -> Rule:
    """A table by token, padded here and not there."""
    return Rule(ours, (padded_vocab_size(model), columns), (theirs,), (Run(0, 0, 0, model.vocab_size),))


def qkv(ours: str, theirs: tuple[str, str, str], tail: Shape, model: ModelConfig) -> Rule:
    """``linear_qkv``: per query group [queries, key, value] x head width; ``tail`` are the other axes."""
    groups, width = num_query_groups(model), kv_channels(model)
    queries = model.num_attention_heads // groups * width
    runs = []
    for group in range(groups):
        place = group * (queries + 2 * width)
        runs.append(Run(0, group * queries, place, queries))
        runs.append(Run(1, group * width, place + queries, width))
        runs.append(Run(2, group * width, place + queries + width, width))
    return Rule(ours, (groups * (queries + 2 * width), *tail), theirs, tuple(runs))


def stacked(ours: str, theirs: tuple[str, ...], rows: int, tail: Shape) -> Rule:
    """``rows`` rows of each, one after the other: gate and up of a gated MLP."""
    runs = tuple(Run(which, 0, which * rows, rows) for which in range(len(theirs)))
    return Rule(ours, (len(theirs) * rows, *tail), theirs, runs)
