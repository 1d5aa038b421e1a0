"""Weights, tokens and phases: which blend holds when, and how often each source is read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.data_schema import PhaseConfig, ShareConfig, SourceConfig
from recipes.config.hydra_app import compose, explain
from recipes.config.phases import Phase, plan_phases, samples_drawn, sources_in_use
from recipes.config.schema import PretrainConfig
from recipes.data.samples.blend import BlendState, RunBlend, Source, stretches_of
from recipes.errors import UserError
from recipes.plan.epochs import MANY_EPOCHS, epoch_rows, source_uses
from tests.support.blend_cases import build_case
from tests.support.pool import GlooPool
from tests.support.sources import SEQ_LENGTH, run_config, source, write_source

TOKENS = {"en": 700, "hi": 300, "code": 90}
STEP = 8 * SEQ_LENGTH  # tokens per optimizer step of run_config


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources")
    for place, (name, tokens) in enumerate(TOKENS.items()):
        write_source(path / name, tokens, 100_000 * place, seed=tokens)
    return path


def config_of(
    train: dict[str, Any], phases: list[PhaseConfig] | None = None, directory: Path = Path("nowhere")
) -> PretrainConfig:
    """Sources by weight (a number) or tokens (("tokens", n))."""
    config = run_config({})
    sources = {}
    for name, share in train.items():
        kind = {"tokens": share[1]} if isinstance(share, tuple) else {"weight": share}
        sources[name] = SourceConfig(str(directory / name), **kind)
    return replace(config, data=replace(config.data, train=sources, phases=phases or []))


def phase(until_step: int | None = None, until_tokens: float | None = None, **shares: Any) -> PhaseConfig:
    train = {
        name: ShareConfig(tokens=share[1]) if isinstance(share, tuple) else ShareConfig(weight=share)
        for name, share in shares.items()
    }
    return PhaseConfig(until_step, until_tokens, train)


def test_one_phase_by_weights_as_they_are_written() -> None:
    config = config_of({"en": 3.0, "hi": 1.0, "code": 0.0})
    assert plan_phases(config, 10) == [Phase(0, 80, {"en": 3.0, "hi": 1.0})]
    assert sources_in_use(config.data) == ["en", "hi"]


def test_tokens_come_out_over_the_run() -> None:
    steps = 1000
    config = config_of({"en": 3.0, "hi": ("tokens", 20.0 * STEP), "code": 1.0})
    (only,) = plan_phases(config, steps)
    share = {name: weight / sum(only.weights.values()) for name, weight in only.weights.items()}
    assert share == pytest.approx({"en": 0.98 * 0.75, "hi": 0.02, "code": 0.98 * 0.25})
    (drawn,) = samples_drawn([only], steps * 8)
    assert drawn["hi"] * SEQ_LENGTH == 20 * STEP
    # All by tokens: the ratio does not hang on the run's length, which only has to fit.
    both = config_of({"en": ("tokens", 600.0 * STEP), "hi": ("tokens", 399.5 * STEP)})
    assert plan_phases(both, steps)[0].weights == {"en": 600.0 * STEP, "hi": 399.5 * STEP}
    for wrong in (998, 1001):
        with pytest.raises(
            UserError, match=r"data\.train: tokens add up to 63,968, .*trainer\.max_tokens=63968"
        ):
            plan_phases(both, wrong)
    with pytest.raises(UserError, match="nothing is left for the sources with weights; lower the tokens"):
        plan_phases(config, 20)


@pytest.mark.parametrize(
    ("train", "phases", "message"),
    [
        ({"en": 0.0}, [], "data.train: every weight is 0"),
        ({"en": -1.0}, [], r"data.train.en.weight=-1.0: must not be negative"),
        ({"en": ("tokens", -5.0)}, [], r"data.train.en.tokens=-5.0: must be positive"),
        ({"en": 2.0}, [phase(en=1.0)], r"data.train.en.weight=2.0: would be ignored: data.phases decide"),
        ({"en": ("tokens", 9.0)}, [phase(en=1.0)], r"data.train.en.tokens=9.0: would be ignored"),
        ({"en": 1.0}, [phase(de=1.0)], r"data.phases\[0\].train=de: is no source: choose of data.train: en"),
        ({"en": 1.0}, [phase(en=0.0)], r"data.phases\[0\].train=.*at least one source a positive weight"),
        (
            {"en": 1.0},
            [phase(9, en=1.0)],
            r"data.phases\[0\].until_step=9: the last phase lasts",
        ),
        (
            {"en": 1.0},
            [phase(en=1.0), phase(en=1.0)],
            r"data.phases\[0\]=no end: give every phase",
        ),
        (
            {"en": 1.0},
            [phase(5, 9.0, en=1.0), phase(en=1.0)],
            r"data.phases\[0\]=.*or until_tokens",
        ),
        ({"en": 1.0}, [phase(0, en=1.0), phase(en=1.0)], r"data.phases\[0\].until_step=0: must be positive"),
        (
            {"en": 1.0},
            [phase(5, en=1.0), phase(5, en=1.0), phase(en=1.0)],
            r"data.phases\[1\]=until sample 40: must end after the phase before it",
        ),
        ({"en": 1.0, "hi": 1.0}, [phase(en=1.0)], r"data.train=hi: no phase draws from it"),
        (
            {"en": 1.0},
            [phase(5, en=("tokens", 1.0)), phase(en=1.0)],
            r"data.phases\[0\].train: tokens add up to 1, the run or phase has 320",
        ),
    ],
)
def test_refusals(train: dict[str, Any], phases: list[PhaseConfig], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_phases(config_of(train, phases), 10)


def test_weight_and_tokens_of_one_source() -> None:
    config = config_of({"en": 1.0})
    config.data.train["en"] = SourceConfig("en", weight=0.5, tokens=100.0)
    with pytest.raises(UserError, match=r"data\.train\.en\.weight=0\.5: would be ignored: tokens decide"):
        plan_phases(config, 10)


def test_phases_from_yaml() -> None:
    overrides = [
        "name=x", "data.seq_length=8", "trainer.max_steps=100", "trainer.global_batch_size=8",
        "trainer.micro_batch_size=8", "optim.lr=1e-3", "dry_run=true",
        "data.train={en:{path:a/en},hi:{path:a/hi}}",
        "data.phases=[{until_tokens:3.2e3,train:{en:{weight:1}}},{train:{en:{tokens:1.28e3},hi:{}}}]",
    ]  # fmt: skip
    config = compose("pretrain", overrides)
    first, second = plan_phases(config, 100)
    assert first == Phase(0, 400, {"en": 1.0})
    assert (second.first, second.end) == (400, 800)
    assert second.weights == {"en": 1280.0, "hi": 3200.0 - 1280.0}
    with pytest.raises(HydraException) as refusal:
        compose("pretrain", [*overrides, "data.phases=[{colour:red}]"])
    assert explain(refusal.value, "pretrain") == "data.phases: its entries have no key 'colour'"


PHASES = [
    phase(10, en=1.0),
    phase(17, en=1.0, hi=1.0),
    phase(None, STEP * 30.0 - 5, hi=3.0, code=1.0),
    phase(en=1.0),
]


def run_of(
    sources: dict[str, Source], directory: Path, phases: list[Phase], stops: list[int], end: int
) -> list[tuple[str, int]]:
    """Every sample of a run that was stopped and resumed, each time through its checkpoint's state."""
    saved: BlendState | None = None
    out: list[tuple[str, int]] = []
    for begin, stop in zip([0, *stops], [*stops, end], strict=True):
        blend = RunBlend(sources, stretches_of(phases, saved, begin, end), directory / "cache")
        out += [blend.locate(n) for n in range(begin, stop)]
        saved = BlendState.from_dict(json.loads(json.dumps(vars(blend.state_at(stop)))))
    return out


@pytest.fixture(scope="module")
def sources(directory: Path) -> dict[str, Source]:
    return {name: source(directory / name, directory / "cache") for name in TOKENS}


@pytest.fixture(scope="module")
def undisturbed(sources: dict[str, Source], directory: Path) -> list[tuple[str, int]]:
    phases = plan_phases(config_of(dict.fromkeys(TOKENS, 1.0), PHASES), 40)
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
@settings(deadline=None, max_examples=60)
def test_stopped_at_any_step(
    stops: list[int], sources: dict[str, Source], directory: Path, undisturbed: list[tuple[str, int]]
) -> None:
    """Inside a phase, on a border, at once again: the same samples."""
    phases = plan_phases(config_of(dict.fromkeys(TOKENS, 1.0), PHASES), 40)
    assert run_of(sources, directory, phases, [8 * stop for stop in stops], 320) == undisturbed


def test_without_a_state_the_phases_tell(
    sources: dict[str, Source], directory: Path, undisturbed: list[tuple[str, int]]
) -> None:
    phases = plan_phases(config_of(dict.fromkeys(TOKENS, 1.0), PHASES), 40)
    for begin in (0, 79, 80, 150, 319, 320):
        blend = RunBlend(sources, stretches_of(phases, None, begin, 320), directory / "cache")
        assert [blend.locate(n) for n in range(begin, 320)] == undisturbed[begin:]


def test_a_longer_or_shorter_run_reads_the_same(
    sources: dict[str, Source], directory: Path, undisturbed: list[tuple[str, int]]
) -> None:
    config = config_of(dict.fromkeys(TOKENS, 1.0), PHASES)
    for steps in (5, 10, 20, 33, 60):
        located = run_of(sources, directory, plan_phases(config, steps), [], 8 * steps)
        assert located[:320] == undisturbed[: 8 * steps]


def test_epochs(directory: Path) -> None:
    config = config_of(dict.fromkeys(TOKENS, 1.0), PHASES, directory)
    uses = {use.name: use for use in source_uses(config, 40)}
    assert {name: use.tokens_drawn // SEQ_LENGTH for name, use in uses.items()} == {
        "en": 188, "hi": 106, "code": 26,
    }  # fmt: skip
    for name, use in uses.items():
        assert use.tokens_there == TOKENS[name]
        assert use.epochs == pytest.approx(
            use.tokens_drawn // SEQ_LENGTH / ((TOKENS[name] - 1) // SEQ_LENGTH)
        )
    rows = epoch_rows(config, 25)
    assert rows[0] == ("phase 0", "steps 1 to 10: en 100.00 %")
    assert rows[2][1].startswith("steps 18 to 25: hi 75.00 %") and rows[3][1].startswith("not reached: en")
    names = [name for name, _ in epoch_rows(config, 40)]
    assert names.count("  warning") == 0
    few = run_config({"en": (directory / "en", 1.0), "code": (directory / "code", 1.0)})
    warnings = [text for name, text in epoch_rows(few, 40) if name == "  warning"]
    assert MANY_EPOCHS == 4 and len(warnings) == 1 and "code is read 14.5 times" in warnings[0]


def test_epochs_of_what_is_not_there(tmp_path: Path) -> None:
    config = config_of({"en": 1.0}, directory=tmp_path)
    assert epoch_rows(config, 10)[0][1].endswith("640 tokens, data not found, epochs unknown")
    write_source(tmp_path / "en", 5)
    assert epoch_rows(config, 10)[0][1].endswith("holds 5: less than one sample")
    (tmp_path / "en.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"en\.bin is truncated"):
        epoch_rows(config, 10)


def test_no_torch_for_a_dry_run() -> None:
    import subprocess
    import sys

    code = "import sys, recipes.plan.dry_run, recipes.plan.epochs; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sources_of_hardly_any_and_of_no_weight(directory: Path, tmp_path: Path) -> None:
    """One in a million is read from when its turn comes; a source of weight 0 need not even be there."""
    config = run_config(
        {"en": (directory / "en", 1.0), "hi": (directory / "hi", 1e-6), "no": (tmp_path, 0.0)}
    )
    phases = plan_phases(config, 10)
    assert phases[0].weights == {"en": 1.0, "hi": 1e-6}
    both = {name: source(directory / name, tmp_path / "cache") for name in ("en", "hi")}
    blend = RunBlend(both, stretches_of(phases, None, 0, 80), tmp_path / "cache")
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
    assert any("blend-" in path for path in wrote) and any("GPTDataset" in path for path in wrote)
    assert wrote_too == []
    assert same == [located, samples]
    # Built once: the next run of the same description writes nothing at all.
    assert [outcome[1] for outcome in gloo_pool.run(2, build_case, str(tmp_path))] == [[], []]
