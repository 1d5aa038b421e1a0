"""Whole runs on a GPU, each in this process. On the CPU: tests/training/test_device_runs.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import device_runs
from tests.support.corpus import TinyData
from tests.support.cuda import NEEDS_CUDA

pytestmark = NEEDS_CUDA


@pytest.mark.parametrize("family", device_runs.FAMILIES)
def test_bf16_learns_as_fp32(family: str, tiny_data: TinyData, tmp_path: Path) -> None:
    device_runs.assert_bf16_learns_as_fp32(tiny_data, tmp_path, family, 50)


@pytest.mark.parametrize("family", ["tiny", "tiny_nano_hindi", "tiny_param2_moe"])
def test_recomputation_changes_nothing(family: str, tiny_data: TinyData, tmp_path: Path) -> None:
    device_runs.assert_recomputation_changes_nothing(tiny_data, tmp_path, family, 6, 1e-3)


@pytest.mark.parametrize("family", ["tiny", "tiny_nano_hindi", "tiny_param2_moe"])
def test_a_resumed_run_is_an_uninterrupted_one(family: str, tiny_data: TinyData, tmp_path: Path) -> None:
    device_runs.assert_resumed_is_uninterrupted(tiny_data, tmp_path, family, 8, 1e-3)


@pytest.mark.parametrize("family", ["tiny", "tiny_nano_hindi", "tiny_param2_moe"])
def test_asynchronous_saves_are_the_same(family: str, tiny_data: TinyData, tmp_path: Path) -> None:
    device_runs.assert_asynchronous_saves_are_the_same(tiny_data, tmp_path, family, 8)


@pytest.mark.parametrize("family", ["tiny", "tiny_nano_hindi"])
def test_goes_on_from_a_local_checkpoint(family: str, tiny_data: TinyData, tmp_path: Path) -> None:
    device_runs.assert_local_checkpoints_resume(tiny_data, tmp_path, family, 8, 1e-3)


def test_completes_as_the_cpu(tiny_data: TinyData, tmp_path: Path) -> None:
    device_runs.assert_completes_as_the_cpu(tiny_data, tmp_path, 40)
