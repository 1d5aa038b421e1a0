"""What failures cost a run, how often to save against them, and the same played through. No torch here.

Goodput is the time that steps that stay take, over the time that passes.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from recipes.checks import not_negative, positive, refuse

MOST_RATIO = 5
"""Of a save and a recovery over the mean time between failures: one try in 150 succeeds then."""


@dataclass(frozen=True)
class Failures:
    """How a run fails, in seconds."""

    mtbf: float
    """Mean time between failures of the whole run, whichever node fails; they come independently of each
    other."""
    save: float
    """For which a save holds training up."""
    recovery: float
    """From a failure to the first step after it: noticing it, a new node, start-up, reading the
    checkpoint."""
    written_after: float = 0.0
    """From the end of ``save`` until the checkpoint can be used, while training goes on."""
    under_way: int = 2
    """So many saves may be in the background, of which one is written at a time; the next waits for the
    oldest. One, where there is no memory for the copies of two."""

    def check(self) -> None:
        """Raises UserError for times that cannot be."""
        positive("mean time between failures", self.mtbf)
        positive("seconds of a save", self.save)
        not_negative("seconds of a recovery", self.recovery)
        not_negative("seconds until a save is written", self.written_after)
        save = self.save + self.written_after
        if save + self.recovery > MOST_RATIO * self.mtbf:
            ends = f"a save of {save:,.0f} s and a recovery of {self.recovery:,.0f} s"
            refuse("mean time between failures", f"{self.mtbf:g} s", f"{ends} hardly ever end by then")


def young_interval(failures: Failures) -> float:
    """Seconds of training between saves, to first order: ``sqrt(2 C M)`` (Young 1974)."""
    return math.sqrt(2 * failures.save * failures.mtbf)


def daly_interval(failures: Failures) -> float:
    """The same to higher order (Daly 2006, eq. 37); with saves as long as failures are apart, the mean
    time."""
    save, mtbf = failures.save, failures.mtbf
    if save >= 2 * mtbf:
        return mtbf
    ratio = save / (2 * mtbf)
    return math.sqrt(2 * save * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save


def best_interval(failures: Failures) -> float:
    """Daly's, or the shortest in which a save is written, if that is longer: more often, each save would wait
    for others, in front of training or in a queue."""
    written = failures.written_after - (failures.save if failures.under_way > 1 else 0.0)
    return max(daly_interval(failures), written)


def expected_goodput(failures: Failures, interval: float) -> float:
    """Share of the time that goes into steps that stay, saving after every ``interval`` seconds of training.

    Daly 2006, eq. 20: with exponential failures, which strike in recoveries and saves too, a segment of
    ``interval`` and a save takes ``M exp(R / M) (exp((interval + C) / M) - 1)`` on average. A save that is
    written later makes each failure lose so much more, on average: it is a longer recovery.

    Saves that are due before others are written come as often as the disk takes them, whatever the interval:
    a shorter one only makes each hold less. The first after a failure waits for none.
    """
    save, later, mtbf = failures.save, failures.written_after, failures.mtbf
    every = interval + save
    if failures.under_way == 1 and interval < later:
        every, later = later + save, interval
    elif failures.under_way > 1 and every < later:
        every, later = later, every
    passed = mtbf * math.exp((failures.recovery + later) / mtbf) * math.expm1(every / mtbf)
    return interval / passed


@dataclass(frozen=True)
class Simulated:
    """A run with failures, played through."""

    goodput: float
    failures: int
    lost: float
    """Seconds of training that were done again."""
    seconds: float
    """From its beginning to its end."""


def simulate(failures: Failures, interval: float, training: float, seed: int = 0) -> Simulated:
    """Plays a run of ``training`` seconds of steps through, failure by failure.

    Times between failures are exponential; one that strikes in a recovery begins it again, one in a save
    loses what the save was of, and so does one that strikes before it is written. Saves are written one after
    the other. The end of the run waits for them all.
    """
    draw = random.Random(seed)
    now = reached = saved = lost = 0.0
    under_way: deque[tuple[float, float]] = deque()
    """When each is written, and the seconds of training that it holds; oldest first."""
    count = 0
    fails_at = draw.expovariate(1 / failures.mtbf)
    while reached < training or under_way:
        then = min(reached + interval, training)
        segment = then - reached
        begins_at = now + segment
        if segment and len(under_way) >= failures.under_way:
            begins_at = max(begins_at, under_way[-failures.under_way][0])
        ends_at = begins_at + failures.save if segment else under_way[-1][0]
        while under_way and under_way[0][0] <= min(ends_at, fails_at):
            _, saved = under_way.popleft()
        if ends_at <= fails_at:
            now, reached = ends_at, then
            if segment:
                turn = under_way[-1][0] if under_way else now
                under_way.append((max(now, turn) + failures.written_after, reached))
            continue
        lost += min(segment, fails_at - now) + reached - saved
        reached = saved
        under_way.clear()
        while True:
            count += 1
            now = fails_at
            fails_at = now + draw.expovariate(1 / failures.mtbf)
            if now + failures.recovery <= fails_at:
                now += failures.recovery
                break
    return Simulated(training / now, count, lost, now)
