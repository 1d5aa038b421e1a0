"""Which faults a run meets at which of its steps, and what each of them may cost. No torch here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.config.timeline import Timeline
from recipes.errors import UserError
from recipes.training.faults import Fault

ENDING = ("kill", "exception", "hang", "terminate", "full_disk", "damaged_checkpoint")
"""The processes end, and the run is started again."""
PASSING = ("slow", "nan", "spike")
"""They go on."""
OF_CLUSTER = ("preempted", "unfit_node", "node_lost")
"""Of a job: another one takes its nodes, one of them fails the health check, or its power fails."""
SPIKE_WINDOW = 16
SPIKE_SKIPS = 2
"""Steps whose samples a rollback leaves out: the spike's own, and the one before."""
SLOW_STEPS = 3
HELD_STEPS = 4
"""Slowed, so that what comes from outside finds the run near the step that is meant."""
HELD_S = 3
HANG_TIMEOUT_S = 20
FILE_LIMIT = 500_000
"""Metrics and logs stay below it, a rank's part of a checkpoint does not."""
GUARDS = (
    "trainer.guards.loss_spike_zscore=8",
    f"trainer.guards.loss_spike_window={SPIKE_WINDOW}",
    f"trainer.guards.loss_spike_skip_steps={SPIKE_SKIPS}",
    "trainer.guards.max_rollbacks=1000",
    f"trainer.guards.hang_timeout_s={HANG_TIMEOUT_S}",
    "trainer.checkpoint.keep_last=3",
    "trainer.checkpoint.async_save=false",
)
"""Settings of a run that is to survive them."""


@dataclass(frozen=True)
class Planned:
    """A fault to come."""

    kind: str
    step: int
    rank: int

    @property
    def mark(self) -> str:
        """The file in the run's logs/ that appears as it begins, of a kind that ends the run."""
        begins_with = {"damaged_checkpoint": "kill", "unfit_node": "kill", "preempted": "slow"}
        kind = begins_with.get(self.kind, "slow" if self.kind == "node_lost" else self.kind)
        return Fault(kind, self.step, self.step, self.rank).mark


def schedule(
    count: int,
    steps: int | None,
    every: int,
    seed: int,
    processes: int,
    of_kinds: Sequence[str] = ENDING + PASSING,
) -> tuple[list[Planned], int]:
    """Faults in the order of the run, and the run's steps. All kinds come equally often, in random order.

    Each is over before the next: the disk is met at the next save, a damaged checkpoint takes the run back
    to the one before it, and a spike needs losses to be compared with.

    Args:
        count: how many.
        steps: of the run; None: as few as possible.
        every: steps between two saves.
        seed: of kinds, steps and ranks.
        processes: of the run.
        of_kinds: from which to choose.

    Raises:
        UserError: the run is too short for so many.
    """
    generator = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += generator.sample(of_kinds, len(of_kinds))
    begin, least = max(2 * every, SPIKE_WINDOW) + SPIKE_SKIPS, 2 * every + SLOW_STEPS
    shortest = begin + count * least + every
    if steps is None:
        steps = shortest
    if steps < shortest:
        raise UserError(f"--steps {steps:,}: too few for {count:,} faults, take {shortest:,}")
    width = (steps - begin - every) // count
    planned = []
    for number, kind in enumerate(kinds[:count]):
        first = begin + number * width
        # A skipped step is not saved: the next save would come later than it is due.
        possible = [step for step in range(first, first + width - every) if kind != "nan" or step % every]
        step, rank = generator.choice(possible), generator.randrange(processes)
        # Of a small model, the first rank alone writes.
        planned.append(Planned(kind, step, 0 if kind == "full_disk" else rank))
    return planned, steps


def left_out(planned: Sequence[Planned], timeline: Timeline) -> list[list[int]]:
    """The samples that the rollbacks will leave out, as data.skip has them."""
    ranges: list[list[int]] = []
    for fault in planned:
        if fault.kind == "spike":
            before = sum(last + 1 - first for first, last in ranges)
            first, end = (timeline.samples(steps) for steps in (fault.step - SPIKE_SKIPS, fault.step))
            ranges.append([first + before, end + before - 1])
    return ranges


def faults_text(planned: Sequence[Planned], timeline: Timeline, kinds: Sequence[str]) -> str:
    """Those of ``kinds`` as RECIPES_FAULTS spells them."""
    spikes = iter(left_out(planned, timeline))
    texts = []
    for fault in planned:
        at = f"rank={fault.rank},step={fault.step}"
        ranges = next(spikes) if fault.kind == "spike" else [0, 0]
        text = {
            "damaged_checkpoint": f"damaged_checkpoint:{at},once=1; kill:{at},once=1",
            "unfit_node": f"kill:{at},once=1",
            **dict.fromkeys(("preempted", "node_lost"), _held(fault, at)),
            "full_disk": f"full_disk:{at},bytes={FILE_LIMIT},once=1",
            "nan": f"nan:{at}",  # Not once: trained again, the step must be skipped again.
            "slow": f"slow:{at},until={fault.step + SLOW_STEPS - 1},seconds=0.5,once=1",
            "spike": f"corrupted_samples:sample={_of_last_step(ranges, fault, timeline)},last={ranges[1]}",
        }.get(fault.kind, f"{fault.kind}:{at},once=1")
        if fault.kind in kinds:
            texts.append(text)
    return "; ".join(texts)


def _held(fault: Planned, at: str) -> str:
    return f"slow:{at},until={fault.step + HELD_STEPS - 1},seconds={HELD_S},once=1"


def _of_last_step(ranges: list[int], fault: Planned, timeline: Timeline) -> int:
    """The first sample of the spike's own step."""
    return ranges[1] + 1 - (timeline.samples(fault.step) - timeline.samples(fault.step - 1))


def allowed(fault: Planned, every: int) -> int:
    """So many steps may be trained for nothing: those since the last checkpoint that is of use."""
    done = fault.step - 1
    since = done % every
    return {
        "terminate": 0,
        "slow": 0,
        "nan": 1,
        # Up to the save that fails.
        "full_disk": every,
        "damaged_checkpoint": since + every,
        # They come from outside, some steps later.
        "preempted": every,
        "node_lost": every,
        # The step itself, those left out before it, and those since the checkpoint before them.
        "spike": SPIKE_SKIPS + (fault.step - SPIKE_SKIPS) % every,
    }.get(fault.kind, since)
