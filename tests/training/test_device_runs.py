"""What tests/cuda asks of runs on a GPU, asked of the CPU, where two runs are the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import device_runs
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool

CASES: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "precisions": (device_runs.assert_bf16_learns_as_fp32, ("tiny_param_moe", 10)),
    "recomputation": (device_runs.assert_recomputation_changes_nothing, ("tiny", 4, 0.0)),
    "resume": (device_runs.assert_resumed_is_uninterrupted, ("tiny_param2_moe", 4, 0.0)),
    "local": (device_runs.assert_local_checkpoints_resume, ("tiny_nano_hindi", 8, 0.0)),
    "asynchronous": (device_runs.assert_asynchronous_saves_are_the_same, ("tiny", 4)),
}


# What else these say of the CPU, the tests of each part say after every edit.
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case == "recomputation" else [pytest.mark.slow]) for case in CASES],
)
def test_on_the_cpu(case: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    function, arguments = CASES[case]
    gloo_pool.run(1, function, tiny_data, tmp_path, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("family", device_runs.FAMILIES)
def test_bf16_learns_as_fp32(family: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    gloo_pool.run(1, device_runs.assert_bf16_learns_as_fp32, tiny_data, tmp_path, family, 50)


@pytest.mark.slow
def test_completes_as_a_process_of_its_own(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    gloo_pool.run(1, device_runs.assert_completes_as_the_cpu, tiny_data, tmp_path, 6)
