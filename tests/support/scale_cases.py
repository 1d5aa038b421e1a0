"""Layouts of many ranks, rehearsed in one process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rehearsed:
    """What a test compares with the plan."""

    numbers: int
    """That a checkpoint holds, of weights and optimizer state."""
    writers: list[int]
    others_write: int
    """Tensors that sampled ranks other than the writers write."""
    weights: list[int]
    """Parameters of each writer."""
    optimizer_numbers: list[int]
    buckets: list[list[int]]
    planned_items: int
    written_items: int
    compared: int


def rehearse(overrides: list[str], size: int) -> Rehearsed:
    from benchmarks.measure import scale
    from benchmarks.measure.shared_out import check_samples_once, check_written_once

    config, data_parallel_size = scale.described(overrides, size)
    writing = scale.writers(config, size)
    others = [number for number in (size // 2 - 1, size - 1) if number not in writing]
    ranks = [scale.build_rank(config, number, size) for number in [*writing, *others]]
    writers = ranks[: len(writing)]
    check_samples_once(config, data_parallel_size, 3)
    return Rehearsed(
        numbers=check_written_once(scale.parts_of(ranks)),
        writers=writing,
        others_write=sum(len(rank.written) for rank in ranks[len(writing) :]),
        weights=[rank.weights for rank in writers],
        optimizer_numbers=[rank.optimizer_shares for rank in writers],
        buckets=[rank.buckets for rank in writers],
        planned_items=scale.plan_checkpoint(ranks).items,
        written_items=sum(len(rank.written) for rank in writers),
        compared=scale.compare_shards(ranks, size).items,
    )
