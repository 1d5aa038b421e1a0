"""The table of a model's tensors: their names, sizes and roles. No torch here.

"Ours" are megatron-core's tensors, named per layer and expert as in Transformer Engine's modules
(recipes/checkpoint/formats/names.py); "theirs" are those of a Hugging Face model. Conversion, the check of
stored files, parameter counts, FLOPs, memory and the key-value cache's size all come from this one table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups, padded_vocab_size

Shape = tuple[int, ...]

AVERAGE = "ema."
"""Before the key of a tensor in a training checkpoint: its average over the run (trainer.ema)."""

# What tensors are counted under, in the order in which people read them. A family may add its own parts.
WORDS, POSITIONS = "word embeddings", "position embeddings"
ATTENTION, MLP = "attention", "MLP"
EXPERTS, SHARED_EXPERTS, ROUTERS = "experts", "shared experts", "routers"
VECTORS, HEAD = "norms, biases, scalars", "output head"
PARTS = (WORDS, POSITIONS, ATTENTION, MLP, EXPERTS, SHARED_EXPERTS, ROUTERS, VECTORS, HEAD)

WORD_EMBEDDINGS = "embedding.word_embeddings.weight"
OUTPUT_LAYER = "output_layer.weight"
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
_EXPERT = re.compile(r"\d+$")


@dataclass(frozen=True)
class Rows:
    """``count`` rows, from row ``start`` of their tensor number ``which`` and from row ``place`` of ours."""

    which: int
    start: int
    place: int
    count: int


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of ours, and the tensors of a Hugging Face model that it holds.

    Rows move in runs and are not changed, so a spec is read in both directions.
    """

    name: str
    shape: Shape
    """As it is stored. Rows in no run are padding: they are not exported, and come back as zeros."""
    theirs: tuple[str, ...]
    runs: tuple[Rows, ...]
    part: str = VECTORS
    """What it is counted under."""
    multiplied: bool = False
    """Whether every token is multiplied by it, as by a matrix; not so for lookups, norms and biases."""
    routed: bool = False
    """Part of a routed expert, which only the tokens sent to it pass through."""
    table: bool = False
    """A row for each token of the vocabulary or each position; not counted as non-embedding."""
    trained: bool = True
    """Whether it is a parameter; False for tensors that are updated without gradients."""
    split: bool = False
    """Whether tensor-parallel ranks (of a routed expert: expert-tensor-parallel ranks) each hold a part."""
    wide: bool = False
    """Never stored in fewer bits than it came with, as small differences in it matter."""
    queries: int = 0
    """Rows that are queries of attention."""
    cached: int = 0
    """Rows whose products are kept to continue a text: keys and values."""
    axes: tuple[str, ...] = ()
    """The setting that gives each axis's size, for messages; "" if no single one does."""

    @cached_property
    def layer(self) -> int | None:
        """The number of its layer; None: it is outside the layers."""
        match = _LAYER.match(self.name)
        return int(match[1]) if match else None

    @cached_property
    def expert(self) -> int | None:
        """The number of its routed expert; None: it is no such expert's."""
        match = _EXPERT.search(self.name) if self.routed else None
        return int(match[0]) if match else None

    def shapes(self) -> list[Shape]:
        """The shapes of their tensors, in the order of ``theirs``."""
        rows = [0] * len(self.theirs)
        for run in self.runs:
            rows[run.which] += run.count
        return [(count, *self.shape[1:]) for count in rows]

    def padding(self) -> int:
        """How many of our last rows none of their tensors has."""
        return self.shape[0] - sum(run.count for run in self.runs)

    def stored_numbers(self) -> int:
        """Numbers in our tensor, including padding."""
        return math.prod(self.shape)

    def numbers(self) -> int:
        """Numbers that are used, without padding."""
        return (self.shape[0] - self.padding()) * math.prod(self.shape[1:])

    def under(self, ours: str, theirs: str) -> TensorSpec:
        """The same spec with prefixes before the names."""
        return replace(self, name=ours + self.name, theirs=tuple(theirs + name for name in self.theirs))


def same(
    name: str,
    theirs: str,
    shape: Shape,
    part: str = VECTORS,
    *,
    multiplied: bool = False,
    split: bool = False,
    wide: bool = False,
    table: bool = False,
    axes: tuple[str, ...] = (),
) -> TensorSpec:
    """A tensor that differs from theirs only in its name."""
    return TensorSpec(
        name,
        shape,
        (theirs,),
        (Rows(0, 0, 0, shape[0]),),
        part,
        multiplied=multiplied,
        split=split,
        wide=wide,
        table=table,
        axes=axes,
    )


def vocabulary(
    name: str, theirs: str, columns: int, model: ModelConfig, part: str, *, multiplied: bool
) -> TensorSpec:
    """A table by token, padded in our model but not in theirs."""
    return TensorSpec(
        name,
        (padded_vocab_size(model), columns),
        (theirs,),
        (Rows(0, 0, 0, model.vocab_size),),
        part,
        multiplied=multiplied,
        table=True,
        split=True,
    )


def qkv(
    name: str, theirs: tuple[str, str, str], tail: Shape, model: ModelConfig, part: str = VECTORS
) -> TensorSpec:
    """``linear_qkv``: per query group [queries, key, value] x head width; ``tail`` are the other axes.

    With a tail it is the projection's matrix, without one its bias.
    """
    groups, width = num_query_groups(model), kv_channels(model)
    queries = model.num_attention_heads // groups * width
    runs = []
    for group in range(groups):
        place = group * (queries + 2 * width)
        runs.append(Rows(0, group * queries, place, queries))
        runs.append(Rows(1, group * width, place + queries, width))
        runs.append(Rows(2, group * width, place + queries + width, width))
    is_matrix = bool(tail)
    return TensorSpec(
        name,
        (groups * (queries + 2 * width), *tail),
        theirs,
        tuple(runs),
        part,
        multiplied=is_matrix,
        split=True,
        queries=groups * queries if is_matrix else 0,
        cached=groups * 2 * width if is_matrix else 0,
    )


def stacked(
    name: str,
    theirs: tuple[str, ...],
    rows: int,
    tail: Shape,
    part: str = VECTORS,
    *,
    multiplied: bool = False,
) -> TensorSpec:
    """``rows`` rows of each of theirs, one after the other, as gate and up of a gated MLP."""
    runs = tuple(Rows(which, 0, which * rows, rows) for which in range(len(theirs)))
    return TensorSpec(
        name, (len(theirs) * rows, *tail), theirs, runs, part, multiplied=multiplied, split=True
    )


def parts_in_order(parts: Iterable[str]) -> list[str]:
    """Each part once, with a family's own parts between the tables and attention, in their order."""
    found = list(dict.fromkeys(parts))
    own = [part for part in found if part not in PARTS]
    known = [part for part in PARTS if part in found]
    tables = [part for part in known if part in (WORDS, POSITIONS)]
    return tables + own + known[len(tables) :]
