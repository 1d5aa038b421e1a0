"""Which training sample is the n-th of a run, whatever the run's length, layout or later blends.

Which source gives sample n follows Megatron's greedy blending rule (:mod:`.greedy`), whose result for n does
not depend on how many samples are asked for. A blend that is changed in mid-run starts the rule anew at that
sample and goes on where each source stood (:mod:`.source`), with samples of another length perhaps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from recipes.config.phases import Phase
from recipes.data.samples.greedy import GreedyOrder
from recipes.data.samples.skip import Skip


class Source(Protocol):
    """An endless row of epochs of samples."""

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...

    def documents(self, index: int) -> list[int]:
        """Those of which a sample has tokens, by their place in the source's files."""

    def epoch_of(self, index: int) -> tuple[int, int]:
        """In which part of the source a sample is, and in which epoch; ascending with the samples."""

    def build_epochs(self, first: int, last: int) -> None:
        """Gets the epochs of samples ``first`` to ``last`` ready; all ranks call it."""


@dataclass(frozen=True)
class BlendState:
    """From which sample on a blend holds, where each source stood then, and how far it has been read."""

    start: int
    weights: dict[str, float]
    counts: dict[str, int]
    seq_length: int
    parts: dict[str, list[list[int]]]
    """Of every source that was read or is to be: [its first sample of this length, sequence length], ..."""
    reached: int | None = None
    """A sample of the run at which the order can be taken up; without it, that is at ``start``."""
    reached_counts: dict[str, int] | None = None
    """Where each source stood then."""

    @classmethod
    def from_dict(cls, state: dict[str, Any], seq_length: int | None = None) -> BlendState:
        """``seq_length``: of checkpoints of earlier versions, whose runs have one length."""
        if "parts" not in state:
            names = {**state["weights"], **state["counts"]}
            parts = {name: [[0, seq_length]] for name in names}
            state = {**state, "seq_length": seq_length, "parts": parts}
        # Checkpoints of earlier versions do not say what was reached.
        return cls(**{key: value for key, value in state.items() if key in cls.__dataclass_fields__})


class Blend(Dataset):
    """Samples ``state.start`` to ``size - 1`` of a run; indices are the run's own sample numbers.

    ``sources`` may be left out by those who only want to know the order.
    """

    def __init__(self, state: BlendState, size: int, sources: Mapping[str, Source] | None = None) -> None:
        self.state = state
        self.names = [name for name, weight in state.weights.items() if weight > 0]
        self.sources = sources or {}
        self._first = [state.counts.get(name, 0) for name in self.names]
        known = None
        if state.reached is not None and state.reached_counts is not None:
            reached = [state.reached_counts.get(name, 0) for name in self.names]
            given = [now - before for now, before in zip(reached, self._first, strict=True)]
            known = state.reached - state.start, given
        self._order = GreedyOrder([state.weights[name] for name in self.names], size - state.start, known)

    def locate(self, sample: int) -> tuple[str, int]:
        """Source and index within it of a sample of the run."""
        place = sample - self.state.start
        if place < 0:
            raise IndexError(f"sample {sample} is before the blend's start {self.state.start}")
        source, index = self._order.locate(place)
        return self.names[source], self._first[source] + index

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        name, index = self.locate(sample)
        return self.sources[name][index]

    def counts_at(self, sample: int) -> dict[str, int]:
        """How many samples each source has given before ``sample``, earlier blends included."""
        return self._add(self._order.counts_at(sample - self.state.start))

    def _add(self, given: list[int]) -> dict[str, int]:
        since = zip(self.names, self._first, given, strict=True)
        return self.state.counts | {name: before + more for name, before, more in since}

    def state_at(self, sample: int) -> BlendState:
        """The same blend, to be taken up at a sample."""
        if sample <= self.state.start:
            return self.state
        return replace(self.state, reached=sample, reached_counts=self.counts_at(sample))

    def build_epochs(self, first: int, last: int) -> None:
        """Rank 0 writes the index files of every epoch that samples ``first`` to ``last`` need; all wait."""
        begin = self.counts_at(first)
        least, most = map(self._add, self._order.bounds_at(last - self.state.start))
        for name in self.names:
            source = self.sources[name]

            def last_of(counts: dict[str, int], name: str = name) -> int:
                return max(begin[name], counts[name] - 1)

            end = last_of(most)
            # Only if it makes a difference: counting goes through all samples.
            if source.epoch_of(end) != source.epoch_of(last_of(least)):
                end = last_of(self.counts_at(last))
            source.build_epochs(begin[name], end)


class RunBlend(Dataset):
    """The blends of a run's phases, one after the other; indices are the run's own sample numbers.

    Args:
        sources: by name.
        stretches: each blend, and the sample at which the next one takes over (the last: the run's end).
        skip: samples that are left out; indices then count those that are read.
        phases: with the loss weights of sources.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        stretches: list[tuple[BlendState, int]],
        skip: Skip | None = None,
        phases: Sequence[Phase] = (),
    ) -> None:
        self.sources, self.skip = sources, skip or Skip()
        self.blends = [Blend(state, end, sources) for state, end in stretches]
        self.ends = [end for _, end in stretches]
        self.phases, self._phase_ends = phases, [phase.end for phase in phases[:-1]]

    def at(self, sample: int) -> Blend:
        """The blend that gives a sample."""
        return self.blends[min(bisect_right(self.ends, sample), len(self.ends) - 1)]

    def state_at(self, consumed: int) -> BlendState:
        """What a run that has read so many samples must know to go on."""
        sample = self.skip.sample(consumed)
        return self.at(sample).state_at(sample)

    def locate(self, place: int) -> tuple[str, int]:
        """Source and index within it of a sample of the run."""
        sample = self.skip.sample(place)
        return self.at(sample).locate(sample)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        number = self.skip.sample(place)
        blend = self.at(number)
        sample = blend[number]
        if weights := self._loss_weights_at(number):
            weight = weights.get(blend.locate(number)[0], 1.0)
            # Not in place: GPTDataset keeps one mask for all samples.
            sample = {**sample, "loss_mask": sample["loss_mask"] * weight}
        return sample

    def _loss_weights_at(self, sample: int) -> dict[str, float]:
        if not self.phases:
            return {}
        return self.phases[bisect_right(self._phase_ends, sample)].loss_weights

    def build_epochs(self, first: int) -> None:
        """Rank 0 writes the index files of every epoch that samples from ``first`` on need; all wait."""
        first = self.skip.sample(first)
        for blend, end in zip(self.blends, self.ends, strict=True):
            blend.build_epochs(max(first, blend.state.start), end)
            first = max(first, end)


def stretches_of(
    phases: list[Phase], saved: BlendState | None, consumed: int, end: int
) -> list[tuple[BlendState, int]]:
    """The blends from sample ``consumed`` to ``end`` (exclusive), each with the sample at which it ends.

    Args:
        phases: of the whole run.
        saved: the blend that held at ``consumed``; None when the run begins.
        consumed: how many samples the run has read; without a saved blend, by these phases.
        end: how many it will have read.
    """
    begin = 0 if saved is None else consumed
    stretches: list[tuple[BlendState, int]] = []
    state = saved
    for phase in phases:
        is_ahead = phase.end > begin and phase.first < end
        # A run that is at its end still has a blend: the one that held there.
        if is_ahead or (phase is phases[-1] and not stretches):
            at = max(begin, min(phase.first, end))
            state = continue_blend(phase.weights, phase.seq_length, state, at)
            stretches.append((state, max(state.start, min(phase.end, end))))
    while len(stretches) > 1 and stretches[0][1] <= consumed:
        del stretches[0]
    return stretches


def continue_blend(
    weights: dict[str, float], seq_length: int, saved: BlendState | None, consumed: int
) -> BlendState:
    """The blend that holds from ``consumed`` on: the saved one if it is the same, else a new one."""
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    if saved is None:
        parts = {name: [[0, seq_length]] for name in wanted}
        return BlendState(start=0, weights=wanted, counts={}, seq_length=seq_length, parts=parts)
    if (saved.weights, saved.seq_length) == (wanted, seq_length):
        return saved
    counts = Blend(saved, consumed).counts_at(consumed)
    parts = dict(saved.parts)
    for name in wanted:
        given, known = counts.get(name, 0), parts.get(name, [])
        if known and known[-1][0] == given:  # Of this length nothing has been read.
            known = known[:-1]
        if not known or known[-1][1] != seq_length:
            known = [*known, [given, seq_length]]
        parts[name] = known
    return BlendState(start=consumed, weights=wanted, counts=counts, seq_length=seq_length, parts=parts)


def blend_changes(saved: BlendState, now: BlendState) -> list[str]:
    """What a resumed run reads from here on if that is not what it read before: a line for each source."""
    if now.start == saved.start and now.weights == saved.weights:
        return []
    before, after = sum(saved.weights.values()), sum(now.weights.values())
    lines = [f"blend  from sample {now.start:,} on, {now.seq_length:,} tokens each:"]
    for name in {**saved.weights, **now.weights}:
        given = now.counts.get(name, 0)
        goes_on = f"after {given:,} samples of it" if given else "from its beginning"
        share = f"{100 * now.weights.get(name, 0.0) / after:.2f} %"
        was = f"{100 * saved.weights.get(name, 0.0) / before:.2f} %"
        lines.append(f"       {name} {share} (before: {was}), {goes_on}")
    return lines


def with_restarted(saved: BlendState, consumed: int, names: Iterable[str]) -> BlendState:
    """The saved blend from ``consumed`` on, with the named sources at their beginning."""
    counts = Blend(saved, consumed).counts_at(consumed)
    anew = list(names)
    return replace(
        saved,
        start=consumed,
        counts=counts | dict.fromkeys(anew, 0),
        parts=saved.parts | {name: [[0, saved.seq_length]] for name in anew},
        reached=None,
        reached_counts=None,
    )
