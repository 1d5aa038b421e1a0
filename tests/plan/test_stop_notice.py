"""Saves that a stopped job has no time for."""

from __future__ import annotations

import pytest

from recipes.errors import UserError
from recipes.plan.stop_notice import VARIABLE, notice_of, too_short


def test_what_the_environment_says() -> None:
    assert notice_of({}) is None and notice_of({VARIABLE: ""}) is None
    assert notice_of({VARIABLE: "600"}) == 600
    for wrong in ("5m", "-1", "1.5"):
        with pytest.raises(UserError, match=f"{VARIABLE}={wrong}: write seconds, as in sbatch --signal"):
            notice_of({VARIABLE: wrong})


def test_two_saves_or_three_must_end_in_time() -> None:
    assert too_short(300, 150) == ""
    assert too_short(300, 100, 3) == ""
    text = too_short(300, 151)
    assert text.startswith("cluster.launch.stop_before_limit_s=300: after the signal 2 saves of 151 s may")
    assert text.endswith(
        "set it to 380 (without tools.launch: STOP_BEFORE_LIMIT_S=380 sbatch --signal=B:USR1@380 ...)"
    )
    assert "3 saves of 101 s" in too_short(300, 101, 3)
    assert too_short(380, 151) == ""
