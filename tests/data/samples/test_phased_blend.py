"""A blend that changes on the way: the same samples wherever the run was stopped and resumed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.phases import Phase, plan_phases
from recipes.data.samples.blend import BlendState, RunBlend, blend_changes, continue_blend, stretches_of
from recipes.data.samples.source import BlendSource
from tests.support.blend_cases import build_case
from tests.support.phase_cases import PHASES, TOKENS, config_of, phase, write_sources
from tests.support.pool import GlooPool
from tests.support.sources import SEQ_LENGTH, run_config, source, write_source


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources")
    write_sources(path)
    return path


def run_of(
    sources: dict[str, BlendSource], directory: Path, phases: list[Phase], stops: list[int], end: int
) -> list[tuple[str, int]]:
    """Every sample of a run that was stopped and resumed, each time through its checkpoint's state."""
    saved: BlendState | None = None
    out: list[tuple[str, int]] = []
    for begin, stop in zip([0, *stops], [*stops, end], strict=True):
        blend = RunBlend(sources, stretches_of(phases, saved, begin, end))
        out += [blend.locate(n) for n in range(begin, stop)]
        saved = BlendState.from_dict(json.loads(json.dumps(vars(blend.state_at(stop)))))
    return out


@pytest.fixture(scope="module")
def sources(directory: Path) -> dict[str, BlendSource]:
    return {name: source(directory / name, directory / "cache") for name in TOKENS}


@pytest.fixture(scope="module")
def undisturbed(sources: dict[str, BlendSource], directory: Path) -> list[tuple[str, int]]:
    phases = plan_phases(config_of(dict.fromkeys(TOKENS, 1.0), PHASES, steps=40))
    assert [part.end for part in phases] == [80, 136, 240, 320]
    return run_of(sources, directory, phases, [], 320)


def test_each_phase_draws_its_blend(undisturbed: list[tuple[str, int]]) -> None:
    names = [name for name, _ in undisturbed]
    assert Counter(names[:80]) == {"en": 80}
    assert Counter(names[80:136]) == {"en": 28, "hi": 28}
    assert Counter(names[136:240]) == {"hi": 78, "code": 26}
    assert Counter(names[240:]) == {"en": 80}
    for source_name in TOKENS:  # No sample twice, none left out, over all phases.
        indices = [index for name, index in undisturbed if name == source_name]
        assert indices == list(range(len(indices)))


@given(stops=st.lists(st.integers(0, 40), max_size=4).map(sorted))
@settings(deadline=None, max_examples=25)
def test_stopped_at_any_step(
    stops: list[int], sources: dict[str, BlendSource], directory: Path, undisturbed: list[tuple[str, int]]
) -> None:
    """Inside a phase, on a border, at once again: the same samples."""
    phases = plan_phases(config_of(dict.fromkeys(TOKENS, 1.0), PHASES, steps=40))
    assert run_of(sources, directory, phases, [8 * stop for stop in stops], 320) == undisturbed


def test_without_a_state_the_phases_tell(
    sources: dict[str, BlendSource], directory: Path, undisturbed: list[tuple[str, int]]
) -> None:
    phases = plan_phases(config_of(dict.fromkeys(TOKENS, 1.0), PHASES, steps=40))
    for begin in (0, 79, 80, 150, 319, 320):
        blend = RunBlend(sources, stretches_of(phases, None, begin, 320))
        assert [blend.locate(n) for n in range(begin, 320)] == undisturbed[begin:]


def test_a_longer_or_shorter_run_reads_the_same(
    sources: dict[str, BlendSource], directory: Path, undisturbed: list[tuple[str, int]]
) -> None:
    for steps in (5, 10, 20, 33, 60):
        phases = plan_phases(config_of(dict.fromkeys(TOKENS, 1.0), PHASES, steps=steps))
        located = run_of(sources, directory, phases, [], 8 * steps)
        assert located[:320] == undisturbed[: 8 * steps]


def test_sources_of_hardly_any_and_of_no_weight(directory: Path, tmp_path: Path) -> None:
    """One in a million is read from when its turn comes; a source of weight 0 need not even be there."""
    config = run_config(
        {"en": (directory / "en", 1.0), "hi": (directory / "hi", 1e-6), "no": (tmp_path, 0.0)}
    )
    phases = plan_phases(config)
    assert phases[0].weights == {"en": 1.0, "hi": 1e-6}
    both = {name: source(directory / name, tmp_path / "cache") for name in ("en", "hi")}
    blend = RunBlend(both, stretches_of(phases, None, 0, 80))
    blend.build_epochs(0)
    # The rule's first round: the source furthest behind its share, however small that is, comes second.
    names = Counter(blend.locate(n)[0] for n in range(80))
    assert names["en"] >= 79
    assert blend[79]["tokens"].shape == (SEQ_LENGTH,)


def test_only_rank_0_writes_index_files(gloo_pool: GlooPool, directory: Path, tmp_path: Path) -> None:
    for name in ("en", "hi"):
        write_source(tmp_path / name, TOKENS[name], seed=3)
    (first, wrote, located, samples), (second, wrote_too, *same) = gloo_pool.run(2, build_case, str(tmp_path))
    assert (first, second) == (0, 1)
    assert any("GPTDataset" in path for path in wrote)
    assert wrote_too == []
    assert same == [located, samples]
    # Built once: the next run of the same description writes nothing at all.
    assert [outcome[1] for outcome in gloo_pool.run(2, build_case, str(tmp_path))] == [[], []]


def test_loss_weights_of_sources(sources: dict[str, BlendSource]) -> None:
    """In the phases that have them; the mask that GPTDataset keeps stays as it is."""
    phases = [
        Phase(0, 10, {"en": 1.0, "hi": 1.0}, SEQ_LENGTH),
        Phase(10, 20, {"en": 1.0, "hi": 1.0}, SEQ_LENGTH, {"hi": 0.25}),
        Phase(20, 30, {"en": 1.0, "hi": 1.0}, SEQ_LENGTH, {"en": 0.0}),
    ]
    blend = RunBlend(sources, stretches_of(phases, None, 0, 30), None, phases)
    expected = [{}, {"hi": 0.25}, {"en": 0.0}]
    for turn in range(2):
        for place in range(30):
            weight = expected[place // 10].get(blend.locate(place)[0], 1.0)
            assert blend[place]["loss_mask"].tolist() == [weight] * SEQ_LENGTH, (turn, place)


LISTS = {
    "as it was": PHASES,
    "other shares": [phase(12, en=1.0, hi=1.0), phase(code=1.0, hi=2.0)],
    "without one": [phase(hi=1.0)],
    "one more": [phase(8, en=1.0), phase(20, en=1.0, code=1.0), phase(25, hi=1.0), phase(en=1.0, hi=1.0)],
}


@given(stops=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(sorted(LISTS))), max_size=5).map(sorted))
@settings(deadline=None, max_examples=15)
def test_other_phases_at_every_restart(
    stops: list[tuple[int, str]], sources: dict[str, BlendSource], undisturbed: list[tuple[str, int]]
) -> None:
    """No sample of any source comes twice or is left out, and each start reads what its own list says."""
    saved: BlendState | None = None
    out: list[tuple[str, int]] = []
    starts = [(0, "as it was"), *stops]
    for (begin, name), (stop, _) in pairwise([*starts, (40, "")]):
        used = {source for each in LISTS[name] for source in each.train}
        phases = plan_phases(config_of(dict.fromkeys(used, 1.0), LISTS[name], steps=40))
        blend = RunBlend(sources, stretches_of(phases, saved, 8 * begin, 320))
        for place in range(8 * begin, 8 * stop):
            out.append(blend.locate(place))
            now = next(each for each in phases if place < each.end)
            assert now.weights.get(out[-1][0], 0) > 0
        saved = BlendState.from_dict(json.loads(json.dumps(vars(blend.state_at(8 * stop)))))
    for source_name in TOKENS:
        indices = [index for name, index in out if name == source_name]
        assert indices == list(range(len(indices)))
    first = stops[0][0] if stops else 40
    assert out[: 8 * first] == undisturbed[: 8 * first]


def test_a_resume_says_what_it_reads_from_now_on() -> None:
    saved = BlendState(0, {"en": 3.0, "hi": 1.0}, {}, 8, {"en": [[0, 8]], "hi": [[0, 8]]})
    assert blend_changes(saved, replace(saved, reached=40, reached_counts={"en": 30, "hi": 10})) == []
    now = continue_blend({"hi": 1.0, "code": 1.0}, 16, saved, 40)
    assert blend_changes(saved, now) == [
        "blend  from sample 40 on, 16 tokens each:",
        "       en 0.00 % (before: 75.00 %), after 30 samples of it",
        "       hi 50.00 % (before: 25.00 %), after 10 samples of it",
        "       code 50.00 % (before: 0.00 %), from its beginning",
    ]
