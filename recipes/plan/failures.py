"""What failures cost a run, how often to save against them, and the same played through. No torch here.

Goodput is the time that steps that stay take, over the time that passes.
"""

from __future__ import annotations

import math
import random
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


def expected_goodput(failures: Failures, interval: float) -> float:
    """Share of the time that goes into steps that stay, saving after every ``interval`` seconds of training.

    Daly 2006, eq. 20: with exponential failures, which strike in recoveries and saves too, a segment of
    ``interval`` and a save takes ``M exp(R / M) (exp((interval + C) / M) - 1)`` on average. A save that is
    written later makes each failure lose so much more, on average: it is a longer recovery.
    """
    mtbf = failures.mtbf
    recovery = failures.recovery + failures.written_after
    passed = mtbf * math.exp(recovery / mtbf) * math.expm1((interval + failures.save) / mtbf)
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
    loses what the save was of, and so does one that strikes before it is written. The next save waits for
    that, and so does the end of the run.
    """
    draw = random.Random(seed)
    now = reached = saved = written_at = lost = 0.0
    count = 0
    fails_at = draw.expovariate(1 / failures.mtbf)
    while reached < training or now < written_at:
        segment = min(interval, training - reached)
        ends_at = max(now + segment, written_at) + (failures.save if segment else 0.0)
        if written_at <= min(ends_at, fails_at):
            saved = reached
        if ends_at <= fails_at:
            now, reached = ends_at, reached + segment
            written_at = now + failures.written_after if segment else now
            continue
        lost += min(segment, fails_at - now) + reached - saved
        reached, written_at = saved, 0.0
        while True:
            count += 1
            now = fails_at
            fails_at = now + draw.expovariate(1 / failures.mtbf)
            if now + failures.recovery <= fails_at:
                now += failures.recovery
                break
    return Simulated(training / now, count, lost, now)
