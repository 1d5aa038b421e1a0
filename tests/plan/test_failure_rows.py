"""What failures make of a planned run."""

from __future__ import annotations

import pytest

from recipes.config.hydra_app import compose
from recipes.errors import UserError
from recipes.plan.failure_rows import duration, failure_data, failure_text, failures_of
from recipes.plan.run_plan import RunPlan, plan_run

HOUR = 3600.0


def plan(*overrides: str) -> RunPlan:
    config = compose("pretrain", ["experiment=param1_2p9b", *overrides])
    return plan_run(config, compose("cluster", ["cluster=shakti_512xh100"]).cluster)


def test_formula_and_simulation_agree_for_the_run() -> None:
    found = plan()
    failures = failures_of(found, 6 * HOUR, None, None)
    # Rank 0 writes everything: 14 bytes a parameter at 2 GB/s.
    assert failures.save == pytest.approx(14 * 2_860_648_448 / 2e9)
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


def test_more_writers_save_sooner() -> None:
    layout = ["parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=4"]
    assert failures_of(plan(*layout), HOUR, None, None).save == pytest.approx(
        failures_of(plan(), HOUR, None, None).save / 8
    )


def test_given_times_and_no_checkpoint() -> None:
    found = plan("trainer.checkpoint.every_minutes=null")
    failures = failures_of(found, HOUR, 7.0, 0.0)
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
