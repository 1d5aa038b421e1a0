"""Weights, tokens and phases: which blend holds when."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.config.data_schema import SourceConfig
from recipes.config.hydra_app import compose
from recipes.config.phase_schema import PhaseConfig
from recipes.config.phases import Phase, plan_phases, samples_drawn, sources_in_use
from recipes.config.validate_phases import validate_phases
from recipes.errors import UserError
from tests.support.phase_cases import STEP, config_of, phase
from tests.support.sources import SEQ_LENGTH


def test_one_phase_by_weights_as_they_are_written() -> None:
    config = config_of({"en": 3.0, "hi": 1.0, "code": 0.0})
    assert plan_phases(config) == [Phase(0, 80, {"en": 3.0, "hi": 1.0}, SEQ_LENGTH)]
    assert sources_in_use(config) == ["en", "hi"]


def test_tokens_come_out_over_the_run() -> None:
    steps = 1000
    train = {"en": 3.0, "hi": ("tokens", 20 * STEP), "code": 1.0}
    (only,) = plan_phases(config_of(train, steps=steps))
    share = {name: weight / sum(only.weights.values()) for name, weight in only.weights.items()}
    assert share == pytest.approx({"en": 0.98 * 0.75, "hi": 0.02, "code": 0.98 * 0.25})
    (drawn,) = samples_drawn([only], steps * 8)
    assert drawn["hi"] * SEQ_LENGTH == 20 * STEP
    # All by tokens: the ratio does not hang on the run's length, which only has to fit.
    both = {"en": ("tokens", 600 * STEP), "hi": ("tokens", 799 * STEP // 2)}
    assert plan_phases(config_of(both, steps=steps))[0].weights == {"en": 600.0 * STEP, "hi": 399.5 * STEP}
    for wrong in (998, 1001):
        with pytest.raises(
            UserError, match=r"data\.train: tokens add up to 63,968, .*trainer\.max_tokens=63,968"
        ):
            plan_phases(config_of(both, steps=wrong))
    with pytest.raises(UserError, match="nothing is left for the sources with weights; lower the tokens"):
        plan_phases(config_of(train, steps=20))


@pytest.mark.parametrize(
    ("train", "phases", "message"),
    [
        ({"en": 0.0}, [], "data.train: every weight is 0"),
        ({"en": -1.0}, [], r"data.train.en.weight=-1.0: must not be negative"),
        ({"en": ("tokens", -5)}, [], r"data.train.en.tokens=-5: must be positive"),
        ({"en": 2.0}, [phase(en=1.0)], r"data.train.en.weight=2.0: would be ignored: every phase"),
        ({"en": ("tokens", 9)}, [phase(en=1.0)], r"data.train.en.tokens=9: would be ignored"),
        ({"en": 1.0}, [phase(de=1.0)], r"phases\[0\].train=de: is no source: choose of data.train: en"),
        ({"en": 1.0}, [phase(en=0.0)], r"phases\[0\].train: every weight is 0; .*at least one source"),
        (
            {"en": 1.0},
            [phase(9, en=1.0)],
            r"phases\[0\].until_step=9: the last phase lasts",
        ),
        (
            {"en": 1.0},
            [phase(en=1.0), phase(en=1.0)],
            r"phases\[0\]=no end: give every phase",
        ),
        (
            {"en": 1.0},
            [phase(5, 9.0, en=1.0), phase(en=1.0)],
            r"phases\[0\].until_tokens=9.0: until_step is given already; leave one out",
        ),
        ({"en": 1.0}, [phase(0, en=1.0), phase(en=1.0)], r"phases\[0\].until_step=0: must be positive"),
        (
            {"en": 1.0},
            [phase(5, en=1.0), phase(5, en=1.0), phase(en=1.0)],
            r"phases\[1\].until_step=5: must end after the phase before it, at step 5",
        ),
        ({"en": 1.0, "hi": 1.0}, [phase(en=1.0)], r"data.train=hi: no phase draws from it"),
        (
            {"en": 1.0},
            [phase(5, en=("tokens", 1)), phase(en=1.0)],
            r"phases\[0\].train: tokens add up to 1, the run or phase has 320",
        ),
    ],
)
def test_refusals(train: dict[str, Any], phases: list[PhaseConfig], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate_phases(config_of(train, phases), 1)


def test_weight_and_tokens_of_one_source() -> None:
    config = config_of({"en": 1.0})
    config.data.train["en"] = SourceConfig("en", weight=0.5, tokens=100)
    with pytest.raises(UserError, match=r"data\.train\.en\.weight=0\.5: would be ignored: tokens decide"):
        plan_phases(config)


def test_phases_from_yaml() -> None:
    overrides = [
        "name=x", "data.seq_length=8", "trainer.max_steps=100", "trainer.global_batch_size=8",
        "trainer.micro_batch_size=8", "optim.lr=1e-3", "dry_run=true",
        "data.train={en:{path:a/en},hi:{path:a/hi}}",
        "phases=[{until_tokens:3.2e3,train:{en:{weight:1}}},{train:{en:{tokens:1.28e3},hi:{}}}]",
    ]  # fmt: skip
    config = compose("pretrain", overrides)
    first, second = plan_phases(config)
    assert first == Phase(0, 400, {"en": 1.0}, 8)
    assert (second.first, second.end) == (400, 800)
    assert second.weights == {"en": 1280.0, "hi": 3200.0 - 1280.0}
    message = "phases: its entries have no key 'colour'; they have name, until_step, until_tokens, train,"
    with pytest.raises(UserError, match=f"^{message}"):
        compose("pretrain", [*overrides, "phases=[{colour:red}]"])
    with pytest.raises(UserError, match=r"have no key 'until_stepp'; did you mean until_step\?$"):
        compose("pretrain", [*overrides, "phases=[{until_stepp:3}]"])
    with pytest.raises(UserError, match=r"^phases\[1\]\.colour: there is no such key"):
        compose("pretrain", [*overrides, "+phases.1.colour=red"])


def test_loss_weights() -> None:
    """A phase's own, else those of data.train; 1 is not listed."""
    config = config_of({"en": 1.0, "hi": 1.0}, [phase(5, en=1.0, hi=1.0), phase(7, hi=1.0), PhaseConfig()])
    config.data.train["hi"].loss_weight = 0.5
    config.phases[0].train["en"].loss_weight = 2.0
    config.phases[0].train["hi"].loss_weight = 1.0
    assert [each.loss_weights for each in plan_phases(config)] == [{"en": 2.0}, {"hi": 0.5}, {"hi": 0.5}]
    config.phases[1].train["hi"].loss_weight = 0.0
    with pytest.raises(UserError, match=r"phases\[1\].train: every loss_weight is 0: nothing"):
        plan_phases(config)
    config.phases[1].train["hi"].loss_weight = -1.0
    with pytest.raises(UserError, match=r"phases\[1\].train.hi.loss_weight=-1.0: must not be negative"):
        plan_phases(config)
