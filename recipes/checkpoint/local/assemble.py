"""Finds the newest local checkpoint that all ranks can have, and brings parts to where they are needed."""

from __future__ import annotations

from collections.abc import Iterable

from recipes.checkpoint.local.exchange import exchange
from recipes.checkpoint.local.files import NO_SHARED, LocalDirectory, Part
from recipes.checkpoint.save.ranks import everywhere
from recipes.config.world import World
from recipes.console import say, warn
from recipes.errors import UserError


def assemble(
    directory: LocalDirectory, world: World, layout: str, shared: Iterable[int], *, sha256: bool
) -> int | None:
    """The step of a local checkpoint newer than all shared ones, with this rank's part on this node.

    All ranks call it together. Each compares its own part with what is recorded; where that is damaged or
    lost, a copy is sent by a node that has one.

    Args:
        directory: this node's.
        world: the processes.
        layout: as in :class:`~recipes.checkpoint.local.files.Part`; parts of another one are of no use.
        shared: steps of the run's shared checkpoints. A local one that followed a shared one that is not
            among them belongs to a past that somebody has undone.
        sha256: compare contents, not only sizes.

    Returns:
        None: there is no such checkpoint.
    """
    steps = {*shared}
    newest = max(steps, default=0)
    parts = [p for p in directory.parts() if p.step > newest and p.after in {NO_SHARED, *steps}]
    usable = [part for part in parts if part.layout == layout]
    if world.rank == 0 and parts and not usable:
        warn(f"{directory.path}: local checkpoints of another layout are not used")
    by_step: dict[int, dict[int, Part]] = {}
    for part in usable:
        by_step.setdefault(part.step, {})[part.rank] = part
    known = everywhere({step: sorted(ranks) for step, ranks in by_step.items()})
    for step in sorted({step for each in known for step in each}, reverse=True):
        if _brought(directory, world, by_step.get(step, {}), [each.get(step, []) for each in known], sha256):
            return step
    return None


def _brought(
    directory: LocalDirectory, world: World, here: dict[int, Part], known: list[list[int]], sha256: bool
) -> bool:
    """Whether every rank has its part of a step on its node now. ``known``: each rank's node's parts."""
    damaged: set[tuple[int, int]] = set()
    while True:
        holders = _holders(known, damaged)
        if len(holders) < world.size:
            return False
        bad = [
            (world.rank, owner)
            for owner, holder in holders.items()
            if holder == world.rank and not directory.is_whole(here[owner], sha256=sha256)
        ]
        found = {each for rank in everywhere(bad) for each in rank}
        if not found:
            break
        damaged |= found
    failure: UserError | None = None
    for owner, holder in sorted(holders.items()):
        if owner == holder:
            continue
        if world.rank == 0:
            say(f"local  rank {owner}'s part comes from rank {holder}'s node")
        if world.rank == holder:
            failure = exchange(directory, here[owner], owner, None) or failure
        elif world.rank == owner:
            failure = exchange(directory, None, None, holder) or failure
    failures = [str(each) for each in everywhere(failure) if each is not None]
    if failures and world.rank == 0:
        warn(failures[0])
    return not failures


def _holders(known: list[list[int]], damaged: set[tuple[int, int]]) -> dict[int, int]:
    """Owner -> the rank on whose node its part is taken from: its own, or the first that has a copy."""
    holders: dict[int, int] = {}
    for rank, owners in enumerate(known):
        for owner in owners:
            if (rank, owner) not in damaged and (owner == rank or holders.get(owner) != owner):
                holders[owner] = owner if owner == rank else holders.get(owner, rank)
    return holders
