"""Samples left out by hand: the others keep their order, also over phases, stops and resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.config.validate import validate_data
from recipes.data.samples.blend import BlendState
from recipes.data.samples.loader import training_loader, training_sources
from recipes.data.samples.skip import Skip
from recipes.errors import UserError
from tests.support.phase_cases import PHASES, TOKENS, config_of, write_sources
from tests.support.sources import TOKENIZER

STEPS, BATCH = 30, 8


def read(directory: Path, ranges: list[list[int]], stops: tuple[int, ...] = ()) -> list[tuple[str, int]]:
    """Every sample of a run that was stopped and resumed after so many steps."""
    config = config_of(dict.fromkeys(TOKENS, 1.0), PHASES, directory, steps=STEPS)
    config = replace(config, data=replace(config.data, skip=ranges))
    sources = training_sources(config, TOKENIZER, directory / "cache")
    saved: BlendState | None = None
    out: list[tuple[str, int]] = []
    for begin, stop in zip([0, *stops], [*stops, STEPS], strict=True):
        _, blend = training_loader(
            config,
            sources,
            saved,
            first_step=begin,
            total_steps=STEPS,
            data_parallel_rank=0,
            data_parallel_size=1,
        )
        out += [blend.locate(place) for place in range(begin * BATCH, stop * BATCH)]
        saved = BlendState.from_dict(json.loads(json.dumps(vars(blend.state_at(stop * BATCH)))))
    return out


def test_the_others_move_up() -> None:
    skip = Skip([[2, 3], [5, 5]])
    assert [skip.sample(place) for place in range(5)] == [0, 1, 4, 6, 7]
    assert Skip([[0, 1], [2, 2]]).sample(0) == 3 and Skip().sample(9) == 9
    assert skip.before(5) == [[2, 3]] and skip.before(6) == [[2, 3], [5, 5]]


@pytest.mark.parametrize("ranges", [[[16, 23]], [[0, 7]], [[3, 4], [30, 49]], [[75, 90]]])
def test_order_and_resume(ranges: list[list[int]], tmp_path: Path) -> None:
    write_sources(tmp_path)
    whole = read(tmp_path, ranges)
    for stops in [(2,), (1, 2, 3), (5, 10, 17), (9,)]:
        assert read(tmp_path, ranges, stops) == whole, stops
    # Phases keep their number of steps: up to the end of the first one, the order is known without them.
    plain, left_out = read(tmp_path, []), sum(last + 1 - first for first, last in ranges)
    first_phase = [each for n, each in enumerate(plain[:80]) if not any(a <= n <= b for a, b in ranges)]
    assert whole[: 80 - left_out] == first_phase[: 80 - left_out] and len(whole) == len(plain)


@pytest.mark.parametrize("ranges", [[[3]], [[3, 2]], [[1, 4], [4, 5]], [[5, 6], [1, 2]], [[-1, 2]]])
def test_refusals(ranges: list[list[int]]) -> None:
    config = config_of({"en": 1.0})
    with pytest.raises(UserError, match=r"data\.skip="):
        validate_data(replace(config.data, skip=ranges))
