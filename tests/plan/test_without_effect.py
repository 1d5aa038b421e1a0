"""Settings that a run is too short or too small for."""

from __future__ import annotations

import pytest

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.plan.without_effect import without_effect
from tests.support.spy import spy

RUN = [
    "experiment=quickstart",
    "data_dir=d",
    "trainer.max_steps=100",
    "trainer.checkpoint.every_n_steps=10",
    "dry_run=true",
]
SPIKES = ["trainer.guards.loss_spike_zscore=8", "trainer.guards.loss_spike_window=64"]
PHASES = "phases=[{until_step:100},{name:long,until_step:200},{}]"
CASES = [
    ([*SPIKES], []),
    (
        [*SPIKES, "trainer.guards.loss_spike_window=100"],
        ["trainer.guards.loss_spike_window=100: no loss is a spike in a run of 100 steps; lower it"],
    ),
    (
        [*SPIKES, "trainer.checkpoint.every_n_steps=null"],
        [
            "trainer.guards.loss_spike_zscore=8: without a checkpoint to go back to, a spike ends the run; "
            "set trainer.checkpoint.every_n_steps"
        ],
    ),
    ([*SPIKES, "trainer.checkpoint.every_n_steps=null", "trainer.checkpoint.every_minutes=1"], []),
    (
        [PHASES],
        [
            "phases[1]=long: would begin with step 101, the run ends after 100 steps",
            "phases[2]: would begin with step 201, the run ends after 100 steps",
        ],
    ),
    (["trainer.max_steps=201", PHASES], []),
    (
        ["trainer.guards.compare_replicas_every_n_steps=10", "trainer.guards.warn_of_stragglers_from=2"],
        [
            "trainer.guards.compare_replicas_every_n_steps=10: there is only one replica of the weights",
            "trainer.guards.warn_of_stragglers_from=2: there is only one rank",
        ],
    ),
    (
        [
            "trainer.guards.compare_replicas_every_n_steps=10",
            "trainer.guards.warn_of_stragglers_from=2",
            "parallel.world_size=2",
            "trainer.micro_batch_size=4",
        ],
        [],
    ),
]


@pytest.mark.parametrize(("changes", "warnings"), CASES)
def test_each_is_named_with_the_reason(changes: list[str], warnings: list[str]) -> None:
    config = compose("pretrain", [*RUN, *changes])
    assert without_effect(config, validate_pretrain(config)) == warnings


def test_a_dry_run_warns_too() -> None:
    (outcome,) = spy(["recipes.pretrain", *RUN, PHASES])
    assert outcome.code == 0 and "not reached" in outcome.out
    assert outcome.err.startswith("warning: phases[1]=long: would begin with step 101, ")
