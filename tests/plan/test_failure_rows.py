"""What failures make of a planned run."""

from __future__ import annotations

import pytest

from recipes.config.hydra_app import compose
from recipes.errors import UserError
from recipes.plan.failure_rows import duration, failure_data, failure_text, failures_of
from recipes.plan.run_plan import RunPlan, plan_run
from recipes.plan.saves import AGREED_S

HOUR = 3600.0


def plan(*overrides: str) -> RunPlan:
    config = compose("pretrain", ["experiment=param1_2p9b", *overrides])
    return plan_run(config, compose("cluster", ["cluster=shakti_512xh100"]).cluster)


def test_formula_and_simulation_agree_for_the_run() -> None:
    found = plan()
    failures = failures_of(found, 6 * HOUR, None, None)
    # In the background. All ranks write: 14 bytes a parameter, as fast as the file system takes it.
    assert failures.save == AGREED_S
    assert failures.written_after == pytest.approx(14 * 2_860_648_448 / 20e9)
    data = failure_data(found, failures)
    for key in ("best", "configured"):
        each = data[key]
        assert each["simulated_goodput"] == pytest.approx(each["goodput"], rel=0.01)
        low, high = each["simulated_goodput_5_to_95"]
        assert low < each["goodput"] < high
        assert each["gpu_hours"] == pytest.approx(found.gpu_hours / each["goodput"])
        assert each["simulated_failures"] == pytest.approx(each["hours"] / 6, rel=0.1)
    assert data["configured"]["interval_s"] == 30 * 60
    assert data["best"]["interval_s"] == data["daly_interval_s"]
    assert data["best"]["goodput"] > data["configured"]["goodput"]
    text = failure_text(found, data)
    assert f"{100 * data['best']['goodput']:.1f} %" in text and "as configured" in text
    assert "a save holds training up for 3.0 s and is written 2.0 s later" in text


def test_given_times_and_no_checkpoint() -> None:
    found = plan("trainer.checkpoint.every_minutes=null")
    failures = failures_of(found, HOUR, 7.0, 0.0)
    assert failures.written_after == pytest.approx(14 * 2_860_648_448 / 20e9)
    assert (failures.save, failures.recovery) == (7, 0)
    data = failure_data(found, failures)
    assert "configured" not in data
    assert "no checkpoint before the end" in failure_text(found, data)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172_800)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "0h", "6 h", "-1h", "6hours"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UserError, match="write a time as 90s, 30m, 6h or 2d"):
        duration(text)
