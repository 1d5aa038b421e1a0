"""Phases that cannot be, or would be ignored, are refused in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recipes.config.phase_schema import PhaseConfig
from recipes.config.schema import OptimConfig
from recipes.config.validate_phases import validate_phases, validate_schedules
from recipes.errors import UserError
from tests.support.configs import config_of_run

OPTIM = OptimConfig(lr=1e-3, min_lr=1e-4)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"global_batch_size": 0}, r"phases\[1\]\.global_batch_size=0: must be positive"),
        (
            {"global_batch_size": 7},
            r"phases\[1\]\.global_batch_size=7: must be a multiple of .* = 1 x 2 = 2",
        ),
        ({"micro_batch_size": 3}, r"\.micro_batch_size=3: trainer\.global_batch_size=10 must be a multiple"),
        ({"rampup_batch_size": [2, 4]}, r"\.rampup_batch_size=\[2, 4\]: write \[start, increment, samples\]"),
        ({"rampup_batch_size": [0, 4, 4]}, r"rampup_batch_size=\[0, 4, 4\]: write .* positive"),
        ({"rampup_batch_size": [10, 2, 4]}, r"the start must be below global_batch_size=10"),
        ({"rampup_batch_size": [3, 2, 4]}, r"the start must be a multiple of micro_batch_size x data"),
        ({"rampup_batch_size": [2, 1, 4]}, r"the increment must be a multiple"),
        ({"rampup_batch_size": [4, 4, 9]}, r"from 4 in steps of 4 one does not come to 10"),
        ({"lr": -1.0}, r"phases\[1\]\.lr=-1\.0: must be positive"),
        ({"lr": 1e-5}, r"phases\[1\]\.min_lr=0\.0001: must lie between 0 and the phase's lr, 1e-05"),
        (
            {"min_lr": 1.0},
            r"phases\[1\]\.min_lr=1\.0: must lie between 0 and .* reached rate, 0\.0001",
        ),
        ({"lr_warmup_steps": 3}, r"phases\[1\]\.lr=None: a warm-up needs a peak"),
        ({"lr_decay_style": "cosin"}, r"phases\[1\]\.lr_decay_style=cosin: choose one of .*mean cosine\?"),
        ({"lr": 1e-3, "lr_wsd_decay_steps": 3}, r"phases\[1\]\.lr_wsd_decay_steps=3: would be ignored"),
        ({"lr": 1e-3, "lr_wsd_decay_style": "foo"}, r"phases\[1\]\.lr_wsd_decay_style=foo: choose one of"),
        (
            {"lr": 1e-3, "lr_warmup_tokens": 5, "lr_warmup_steps": 3},
            r"phases\[1\]\.lr_warmup_tokens=5: phases\[1\]\.lr_warmup_steps=3 says the same",
        ),
        (
            {"lr": 1e-3, "lr_warmup_steps": 5, "lr_decay_tokens": 5000},
            r"phases\[1\]\.lr_warmup_steps=5: must be below lr_decay_tokens=5000",
        ),
    ],
)
def test_refused(phase: dict[str, Any], message: str) -> None:
    config = config_of_run(OPTIM, 90, [PhaseConfig(until_step=20), PhaseConfig(**phase)])
    with pytest.raises(UserError, match=message):
        validate_phases(config, 2)
        validate_schedules(config)


def test_the_first_phase_begins_with_the_runs_schedule() -> None:
    config = config_of_run(OPTIM, 90, [PhaseConfig(lr=1.0)])
    with pytest.raises(UserError, match=r"phases\[0\]\.lr=1\.0: the run's own schedule .*: set optim\.lr"):
        validate_schedules(config)


def test_what_can_be_is_accepted() -> None:
    phases = [
        PhaseConfig(until_tokens=50_000, rampup_batch_size=[2, 4, 100]),
        PhaseConfig(until_step=80, global_batch_size=20, micro_batch_size=5, lr=2e-3, lr_warmup_tokens=9_000),
        PhaseConfig(lr_decay_style="WSD", lr_wsd_decay_style="minus_sqrt", lr_wsd_decay_tokens=4_000),
    ]
    config = config_of_run(replace(OPTIM, min_lr=0.0), 90, phases)
    validate_phases(config, 2)
    validate_schedules(config)
