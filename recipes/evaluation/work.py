"""The work of an evaluation in units: dealt to processes, kept as they are done, halved if memory is short.

What a unit holds depends on the requests alone, not on the number of processes: the order in which a
processor adds numbers depends on what it computes together, so only equal units give equal answers, bit for
bit.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from recipes.config.world import launched_world
from recipes.console import Progress, warn_once
from recipes.errors import UserError
from recipes.evaluation.journal import Answers, JournalWriter
from recipes.evaluation.ranks import Ranks
from recipes.evaluation.rehearsal import out_of_memory
from recipes.inference.memory import is_out_of_memory, reason_of

T = TypeVar("T")


@dataclass(frozen=True)
class Unit(Generic[T]):
    """What one process reads in one go."""

    what: str
    """Together with the items all that the answers depend on, besides the model."""
    items: Sequence[T]
    cost: int
    """In tokens that are read or written."""
    answer: Callable[[Sequence[T]], Answers]
    """Answers all requests of some of the items."""
    size: Callable[[Sequence[T]], Sequence[int]]
    """All that the memory depends on which answering some of the items takes: where none of the numbers is
    larger than for others that fitted, these fit too."""
    attempt: Callable[[Sequence[T]], object]
    """Needs as much memory as `answer`, and leaves nothing behind."""

    def digest(self, on: str) -> str:
        everything = repr((on, self.what, self.items))
        return hashlib.sha256(everything.encode("utf-8", "surrogatepass")).hexdigest()


class Abandoned(Exception):
    """An evaluation that is not carried on, on every rank."""


def _never() -> bool:
    return False


@dataclass
class Work:
    """Has units answered: those that were answered before are not asked again, the others shared out.

    Args:
        ranks: the processes among which they are shared out.
        on: what answers depend on besides units and model: the kind of device, the precision.
        known: answers of an earlier, unfinished evaluation, by the digests of units; equal on all ranks.
        journal: where this process keeps its answers.
        rehearses: whether ranks of a split model find out beforehand which units fit into their memories, and
            halve the others. Without it they end where one does not.
        stop: asked before each unit whether to give up; the ranks of a split model must answer alike, others
            need not. Given on all ranks or on none.
    """

    ranks: Ranks = field(default_factory=Ranks)
    on: str = ""
    known: dict[str, Answers] = field(default_factory=dict)
    journal: JournalWriter | None = None
    rehearses: bool = False
    stop: Callable[[], bool] = _never
    _fitting: dict[str, list[Sequence[int]]] = field(default_factory=lambda: defaultdict(list))
    """The sizes of units, by what they are, that all ranks of a split model have read, or could have."""
    _too_large: dict[str, list[Sequence[int]]] = field(default_factory=lambda: defaultdict(list))

    def answers(self, units: Sequence[Unit[Any]], label: str, *, quiet: bool = False) -> Iterator[Answers]:
        """The answers to all units, as they come; on every rank all of them.

        Args:
            label: what is being done, for the progress.
            quiet: shows none.

        Raises:
            Abandoned: some rank was told to stop.
        """
        digests = [unit.digest(self.on) for unit in units] if self.known or self.journal else []
        left = list(range(len(units)))
        if self.known:
            yield from (self.known[digest] for digest in digests if digest in self.known)
            left = [i for i in left if digests[i] not in self.known]
        mine = [left[k] for k in deal([units[i].cost for i in left], self.ranks.parts)[self.ranks.part]]
        own: Answers = {}
        stopped = False
        total, shown = sum(units[i].cost for i in mine), launched_world().rank == 0 and not quiet
        with Progress(total, " tokens", label=label, enabled=shown) as progress:
            for i in mine:
                if stopped := self.stop():
                    break
                answers = self._answer(units[i], units[i].items)
                if self.journal:
                    self.journal.add(digests[i], answers)
                own |= answers
                yield answers
                progress.add(units[i].cost)
        yield from self.ranks.of_others(own)
        if self.stop is not _never and self.ranks.any_part(stopped):
            raise Abandoned

    def _answer(self, unit: Unit[T], items: Sequence[T]) -> Answers:
        if self.rehearses and self.ranks.others_wait and not self._fits_everywhere(unit, items):
            return self._answer_halves(unit, items)
        try:
            return unit.answer(items)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = reason_of(error)
            if self.ranks.others_wait:
                raise UserError(
                    f"a batch does not fit into memory; lower max_batch_tokens ({reason})"
                ) from None
        # Only here, for the error holds what its functions had allocated.
        torch.cuda.empty_cache()
        if len(items) == 1:
            raise _one_is_too_much(reason)
        return self._answer_halves(unit, items)

    def _answer_halves(self, unit: Unit[T], items: Sequence[T]) -> Answers:
        warn_once(
            "a batch did not fit into memory and is read in halves; a lower max_batch_tokens avoids this"
        )
        half = len(items) // 2
        return self._answer(unit, items[:half]) | self._answer(unit, items[half:])

    def _fits_everywhere(self, unit: Unit[T], items: Sequence[T]) -> bool:
        """Whether all ranks of the model have the memory: by what they tried before, else they try it now.

        Raises:
            UserError: they have not, and there is nothing to halve.
        """
        size = unit.size(items)
        if any(_covers(other, size) for other in self._fitting[unit.what]):
            return True
        if len(items) > 1 and any(_covers(size, other) for other in self._too_large[unit.what]):
            return False
        reason = out_of_memory(lambda: unit.attempt(items))
        if not self.ranks.any_of_model(reason is not None):
            self._fitting[unit.what].append(size)
            return True
        if len(items) == 1:
            raise _one_is_too_much(reason or "on another rank")
        self._too_large[unit.what].append(size)
        return False


def _covers(one: Sequence[int], other: Sequence[int]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))


def _one_is_too_much(reason: str) -> UserError:
    return UserError(
        "one document does not fit into memory; split the model over more devices with "
        f"tensor_model_parallel_size ({reason})"
    )


def deal(costs: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of the costs in ``parts`` lists whose sums are about equal, each in the given order."""
    hands: list[list[int]] = [[] for _ in range(parts)]
    loads = [(0, part) for part in range(parts)]
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, part = loads[0]
        heapq.heapreplace(loads, (load + costs[i], part))
        hands[part].append(i)
    return [sorted(hand) for hand in hands]
