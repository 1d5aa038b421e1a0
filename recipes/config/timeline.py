"""What a run has read after so many optimizer steps, whose size may change on the way. No torch here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from recipes.checks import refuse
from recipes.config.phase_schema import PhaseConfig
from recipes.config.schema import PretrainConfig


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of one size."""

    phase: int
    """Which of the configured phases; 0 if there are none."""
    first_step: int
    """Steps of the run before it, as samples and tokens in the next two."""
    first_sample: int
    first_token: int
    global_batch_size: int
    micro_batch_size: int
    seq_length: int

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.seq_length


class Timeline:
    """A run's steps, as many as are asked for: it does not know where the run ends.

    Args:
        segments: the first begins with the run, each other one where the one before it ends; the last is
            endless.
    """

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self._first_steps = [segment.first_step for segment in segments]
        self._first_tokens = [segment.first_token for segment in segments]
        self._first_samples = [segment.first_sample for segment in segments]

    def at(self, steps: int) -> Segment:
        """The segment of the step that follows ``steps`` earlier ones."""
        return self.segments[bisect_right(self._first_steps, steps) - 1]

    def samples(self, steps: int) -> int:
        """Samples of the first ``steps`` steps."""
        segment = self.at(steps)
        return segment.first_sample + (steps - segment.first_step) * segment.global_batch_size

    def tokens(self, steps: int) -> int:
        """Tokens of the first ``steps`` steps."""
        segment = self.at(steps)
        return segment.first_token + (steps - segment.first_step) * segment.tokens_per_step

    def steps_with(self, tokens: int) -> int:
        """The fewest steps that have so many tokens."""
        # A border belongs to the segment that it ends.
        place = max(0, bisect_right(self._first_tokens, tokens - 1) - 1)
        segment = self.segments[place]
        return segment.first_step + _rounded_up(tokens - segment.first_token, segment.tokens_per_step)

    def before(self, steps: int) -> list[Segment]:
        """The segments that the first ``steps`` steps are in; of a run without steps, its first."""
        return [each for each in self.segments if each.first_step < steps] or self.segments[:1]

    def first_of(self, phase: int) -> Segment:
        """With which a phase begins."""
        return next(each for each in self.segments if each.phase == phase)


def even_timeline(global_batch_size: int, micro_batch_size: int, seq_length: int) -> Timeline:
    """All steps have one size."""
    return Timeline([Segment(0, 0, 0, 0, global_batch_size, micro_batch_size, seq_length)])


def timeline_of(config: PretrainConfig) -> Timeline:
    """The configured run's.

    Raises:
        UserError: a phase does not end after the one before it, or before its batch has grown.
    """
    segments: list[Segment] = []
    step = sample = token = 0
    for number, phase in enumerate(config.phases or [PhaseConfig()]):
        key = f"phases[{number}]"
        micro_batch_size = phase.micro_batch_size or config.trainer.micro_batch_size
        seq_length = phase.seq_length or config.data.seq_length
        is_last = number >= len(config.phases) - 1
        stages = list(_batch_sizes(phase, config.trainer.global_batch_size))
        for batch, steps in stages:
            segment = Segment(number, step, sample, token, batch, micro_batch_size, seq_length)
            segments.append(segment)
            is_full = steps is None
            if is_full and is_last:
                break
            if not is_last:
                left = _steps_left(key, phase, segment)
                if steps is not None and left <= steps:
                    refuse(
                        f"{key}.rampup_batch_size",
                        phase.rampup_batch_size,
                        "the phase ends before its batches have grown; lower the samples, or end it later",
                    )
                steps = left if steps is None else steps
            assert steps is not None
            step += steps
            sample += steps * batch
            token += steps * segment.tokens_per_step
    return Timeline(segments)


def _steps_left(key: str, phase: PhaseConfig, segment: Segment) -> int:
    """From the segment's first step to the phase's end; tokens are rounded up to whole steps."""
    if phase.until_step is not None:
        end, unit, reached = phase.until_step, "step", segment.first_step
        steps = end - reached
    else:
        assert phase.until_tokens is not None
        end, unit, reached = phase.until_tokens, "tokens", segment.first_token
        steps = _rounded_up(end - reached, segment.tokens_per_step)
    if steps <= 0:
        refuse(
            f"{key}.until_{unit}",
            end,
            f"must end after the phase before it, at {unit} {reached:,}",
        )
    return steps


def _batch_sizes(phase: PhaseConfig, run_batch_size: int) -> Iterator[tuple[int, int | None]]:
    """Batch sizes one after the other, and for how many steps each; None: to the phase's end."""
    full = phase.global_batch_size or run_batch_size
    if phase.rampup_batch_size is not None:
        start, increment, samples = phase.rampup_batch_size
        sizes = (full - start) // increment
        read = 0
        for number in range(sizes):
            # Megatron's rule: as long as it has read less than this size's part of the samples.
            batch = start + number * increment
            steps = _rounded_up((number + 1) * samples - read * sizes, batch * sizes)
            if steps > 0:
                read += steps * batch
                yield batch, steps
    yield full, None


def _rounded_up(number: int, divisor: int) -> int:
    return -(-number // divisor)
