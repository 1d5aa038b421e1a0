"""Runs that tell which samples they were trained on, whatever the layout."""

from __future__ import annotations

from typing import Any

from tests.support.background_cases import replaced
from tests.support.run_cases import Outcome, run_case

Batches = dict[int, list[list[int]]]
"""Step -> the tokens of this rank's samples, in order."""


def recording_case(settings: list[str]) -> tuple[Outcome, int, Batches]:
    """A run; this rank's data-parallel rank; and what it was trained on."""
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from megatron.core import parallel_state

    from recipes.training.module import ParamGPT

    seen: Batches = {}
    ranks: list[int] = []
    step: Any = ParamGPT.training_step

    def recorded(self: Any, batch: Any, batch_idx: int) -> Any:
        ranks.append(parallel_state.get_data_parallel_rank())
        seen[self.trainer.global_step + 1] = batch["tokens"].tolist()
        return step(self, batch, batch_idx)

    with replaced(ParamGPT, "training_step", recorded):
        outcome = run_case(settings)
    return outcome, ranks[0], seen


def samples(results: list[tuple[Outcome, int, Batches]], micro_batch_size: int) -> Batches:
    """Step -> the tokens of the global batch, in the run's order.

    All ranks of a data-parallel rank must have seen the same.
    """
    by_rank: dict[int, Batches] = {}
    for _, rank, seen in results:
        assert by_rank.setdefault(rank, seen) == seen
    merged: Batches = {}
    for step in by_rank[0]:
        batches = [by_rank[rank][step] for rank in sorted(by_rank)]
        # Consecutive micro-batches go to consecutive data-parallel ranks.
        starts = range(0, len(batches[0]), micro_batch_size)
        merged[step] = [
            sample
            for start in starts
            for batch in batches
            for sample in batch[start : start + micro_batch_size]
        ]
    return merged
