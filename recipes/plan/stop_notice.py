"""Whether a job that is told to stop has time to save before it is killed. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping

from recipes.errors import UserError

VARIABLE = "STOP_BEFORE_LIMIT_S"
"""What docker/slurm/pretrain.sbatch tells its tasks: seconds between the signal and the time limit."""
AT_LEAST = 2
"""Saves to be waited for: one that has just begun, and the last one."""
SPARE = 1.25
"""For the steps that end before, and for saves that take longer than those seen."""


def notice_of(environment: Mapping[str, str]) -> int | None:
    """Seconds between the signal and the time limit; None where nobody says.

    Raises:
        UserError: it is no number of seconds.
    """
    text = environment.get(VARIABLE, "")
    if text and not text.isdecimal():
        raise UserError(f"{VARIABLE}={text}: write seconds, as in sbatch --signal=B:USR1@300")
    return int(text) if text else None


def too_short(notice_s: int, save_s: float, saves: int = AT_LEAST) -> str:
    """What to warn of, if so many saves of so many seconds do not end in time; else empty."""
    if saves * save_s <= notice_s:
        return ""
    enough = 10 * math.ceil(SPARE * saves * save_s / 10)
    return (
        f"cluster.launch.stop_before_limit_s={notice_s}: after the signal {saves} saves of {save_s:,.0f} s "
        f"may have to be waited for; set it to {enough} (without tools.launch: "
        f"STOP_BEFORE_LIMIT_S={enough} sbatch --signal=B:USR1@{enough} ...)"
    )
