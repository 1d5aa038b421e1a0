"""Samples and tokens of steps whose size changes, against adding them up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.num_microbatches_calculator import RampupBatchsizeNumMicroBatchesCalculator

from recipes.config.lengths import Clock, total_steps
from recipes.config.phase_schema import PhaseConfig
from recipes.config.schema import OptimConfig
from recipes.config.timeline import Timeline, timeline_of
from recipes.errors import UserError
from tests.support.configs import changed, config_of_run

MOST = 120


@st.composite
def timelines(draw: Any) -> Timeline:
    """Of up to four phases that end after some steps or tokens, with batches that may grow."""
    phases: list[PhaseConfig] = []
    for number in range(count := draw(st.integers(1, 4))):
        batch = draw(st.integers(1, 9))
        phase = PhaseConfig(global_batch_size=batch)
        if batch > 1 and draw(st.booleans()):
            start = draw(st.integers(1, batch - 1))
            step = draw(st.sampled_from([n for n in range(1, 9) if (batch - start) % n == 0]))
            phase.rampup_batch_size = [start, step, draw(st.integers(1, 40))]
        if number < count - 1:
            so_far = timeline_of(config_of_run(OptimConfig(lr=1.0), 1, [*phases, phase]))
            first = so_far.segments[-1]  # The batch that it grows to must be reached.
            if draw(st.booleans()):
                phase.until_step = first.first_step + draw(st.integers(1, 20))
            else:
                phase.until_tokens = first.first_token + draw(st.integers(1, 20_000))
        phases.append(phase)
    return timeline_of(config_of_run(OptimConfig(lr=1.0), 1, phases))


@given(timeline=timelines())
@settings(deadline=None, max_examples=150)
def test_sums(timeline: Timeline) -> None:
    samples = tokens = 0
    for step in range(MOST):
        assert (timeline.samples(step), timeline.tokens(step)) == (samples, tokens)
        size = timeline.at(step)
        assert size.first_step <= step
        samples += size.global_batch_size
        tokens += size.tokens_per_step
    for segment in timeline.segments:
        assert timeline.at(segment.first_step) == segment
        assert timeline.samples(segment.first_step) == segment.first_sample
        assert timeline.tokens(segment.first_step) == segment.first_token


@given(timeline=timelines(), tokens=st.integers(1, 60_000), begin=st.integers(0, 40))
@settings(deadline=None, max_examples=150)
def test_tokens_as_steps(timeline: Timeline, tokens: int, begin: int) -> None:
    steps = timeline.steps_with(tokens)
    assert timeline.tokens(steps - 1) < tokens <= timeline.tokens(steps)
    clock = Clock(timeline, begin)
    steps, before = clock.steps(tokens), timeline.tokens(begin)
    assert timeline.tokens(begin + steps - 1) - before < tokens <= timeline.tokens(begin + steps) - before
    last, end = clock.last_steps(tokens, 50), timeline.tokens(begin + 50)
    if last <= 50:
        assert end - timeline.tokens(begin + 50 - last) >= tokens
        assert end - timeline.tokens(begin + 51 - last) < tokens


@given(
    chunk=st.integers(1, 3),
    start=st.integers(1, 6),
    increment=st.integers(1, 6),
    sizes=st.integers(1, 8),
    samples=st.integers(1, 900),
)
@settings(deadline=None, max_examples=200)
def test_batches_grow_as_megatrons(chunk: int, start: int, increment: int, sizes: int, samples: int) -> None:
    ramp = [chunk * start, chunk * increment, samples]
    full = chunk * (start + increment * sizes)
    theirs = RampupBatchsizeNumMicroBatchesCalculator(full, 1, chunk, False, 0, *ramp)
    phases = [PhaseConfig(global_batch_size=full, rampup_batch_size=ramp)]
    timeline = timeline_of(config_of_run(OptimConfig(lr=1.0), 1, phases))
    for step in range(MOST):
        theirs.update(timeline.samples(step), consistency_check=False)
        assert timeline.at(step).global_batch_size == theirs.get_current_global_batch_size(), step


def test_a_phase_begins_where_the_one_before_it_ends() -> None:
    ramp = [PhaseConfig(until_step=8, rampup_batch_size=[2, 4, 20]), PhaseConfig(global_batch_size=4)]
    config = config_of_run(OptimConfig(lr=1.0), 100, ramp)
    found = [(s.phase, s.first_step, s.global_batch_size) for s in timeline_of(config).segments]
    # The first 10 samples by 2 at a time, the next 10 by 6.
    assert found == [(0, 0, 2), (0, 5, 6), (0, 7, 10), (1, 8, 4)]
    assert total_steps(changed(config, trainer__max_steps=None, trainer__max_tokens=3200)) == 8
    assert total_steps(changed(config, trainer__max_tokens=3201)) == 9
    with pytest.raises(UserError, match=r"phases\[0\]\.rampup_batch_size=.*before its batches have grown"):
        timeline_of(replace(config, phases=[replace(ramp[0], until_step=7), ramp[1]]))
