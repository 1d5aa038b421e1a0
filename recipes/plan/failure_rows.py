"""What failures make of a plan, as text and as plain data."""

from __future__ import annotations

import re
import statistics
from typing import Any

from recipes.config.schema import PretrainConfig
from recipes.counts import amount_in_words
from recipes.errors import UserError
from recipes.plan.failures import (
    Failures,
    best_interval,
    daly_interval,
    expected_goodput,
    simulate,
    young_interval,
)
from recipes.plan.run_plan import RunPlan
from recipes.plan.saves import expected_save
from recipes.report.figures import format_duration

RECOVERY_S = 300.0
"""Assumed; runs of this size report medians below 4 minutes, without the search for a new node."""
RUNS = 100
"""Played through; their spread is the run's own luck."""


def duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``6h`` or ``2d``.

    Raises:
        UserError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or not float(match[1]):
        raise UserError(f"{text}: write a time as 90s, 30m, 6h or 2d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def failures_of(plan: RunPlan, mtbf: float, save: float | None, recovery: float | None) -> Failures:
    """The run's failures; what is not given is assumed.

    Args:
        save: for which one holds training up.

    Raises:
        UserError: a time is impossible.
    """
    expected = expected_save(plan.config, plan.cluster, plan.gpus)
    failures = Failures(
        mtbf,
        expected.held if save is None else save,
        RECOVERY_S if recovery is None else recovery,
        expected.written_after,
        expected.under_way,
    )
    failures.check()
    return failures


def failure_data(plan: RunPlan, failures: Failures) -> dict[str, Any]:
    """Intervals in seconds of training, goodputs as shares, and what the run takes then."""
    training = 3600 * plan.hours
    best = min(best_interval(failures), training)
    found: dict[str, Any] = {
        "mtbf_s": failures.mtbf,
        "save_s": failures.save,
        "written_after_s": failures.written_after,
        "saves_under_way": failures.under_way,
        "recovery_s": failures.recovery,
        "young_interval_s": young_interval(failures),
        "daly_interval_s": daly_interval(failures),
        "best": _at(plan, failures, best),
    }
    if (own := configured_interval(plan.config, plan.step.seconds)) is not None:
        found["configured"] = _at(plan, failures, min(own, training))
    return found


def configured_interval(config: PretrainConfig, step_s: float) -> float | None:
    """Seconds of training between the run's own saves; None: it saves only at the end."""
    checkpoint = config.trainer.checkpoint
    given = []
    if checkpoint.every_minutes is not None:
        given.append(60 * checkpoint.every_minutes)
    if checkpoint.every_n_steps is not None:
        given.append(step_s * checkpoint.every_n_steps)
    return min(given, default=None)


def _at(plan: RunPlan, failures: Failures, interval: float) -> dict[str, Any]:
    runs = [simulate(failures, interval, 3600 * plan.hours, seed) for seed in range(RUNS)]
    goodputs = sorted(run.goodput for run in runs)
    expected = expected_goodput(failures, interval)
    return {
        "interval_s": interval,
        "interval_steps": max(1, round(interval / plan.step.seconds)),
        "goodput": expected,
        "hours": plan.hours / expected,
        "gpu_hours": plan.gpu_hours / expected,
        "simulated_goodput": plan.hours * 3600 / statistics.fmean(run.seconds for run in runs),
        "simulated_goodput_5_to_95": [goodputs[RUNS // 20], goodputs[-1 - RUNS // 20]],
        "simulated_failures": statistics.fmean(run.failures for run in runs),
    }


def failure_text(plan: RunPlan, data: dict[str, Any]) -> str:
    """The same in words."""
    later = data["written_after_s"]
    written = f" and is written {format_duration(later)} later" if later else ""
    rows = [
        (
            "failures",
            f"one in {format_duration(data['mtbf_s'])}; a save holds training up for "
            f"{format_duration(data['save_s'])}{written}, a recovery takes "
            f"{format_duration(data['recovery_s'])}",
        )
    ]
    names = {"best": "save every", "configured": "as configured"}
    for key, name in names.items():
        if key not in data:
            continue
        each = data[key]
        low, high = each["simulated_goodput_5_to_95"]
        simulated = f"{100 * each['simulated_goodput']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        rows += [
            (name, f"{format_duration(each['interval_s'])} of training, {each['interval_steps']:,} steps"),
            ("  goodput", f"{100 * each['goodput']:.1f} %; of {RUNS} simulated runs {simulated}"),
            (
                "  time",
                f"{format_duration(3600 * each['hours'])}, {amount_in_words(each['gpu_hours'])} GPU-hours",
            ),
            ("  failures", f"{each['simulated_failures']:,.0f}"),
        ]
    if "configured" not in data:
        rows.append(("as configured", "no checkpoint before the end: the first failure loses everything"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
