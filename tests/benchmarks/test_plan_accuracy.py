"""The planner against published runs on H100s: two of each series calibrate it, the others are predicted."""

from __future__ import annotations

import pytest

from benchmarks.published_runs import H100, LLAMA_8B, MODELS, MPT_1B, MPT_3B, MPT_7B, NEMOTRON, MegatronRun
from recipes.config.cluster_schema import HardwareConfig
from recipes.plan.accounting import count_parameters
from recipes.plan.calibration import calibrate_scaling


@pytest.fixture(scope="module")
def mpt() -> HardwareConfig:
    """Calibrated on MPT 3B at 16 and 128 GPUs."""
    small, large = MPT_3B[16], MPT_3B[128]
    return calibrate_scaling(H100, (small.planned, small.measured), (large.planned, large.measured))


@pytest.fixture(scope="module")
def nemotron() -> HardwareConfig:
    """Calibrated on Nemotron-4 15B at 16 and 512 GPUs."""
    small, large = NEMOTRON[16], NEMOTRON[512]
    return calibrate_scaling(H100, (small.planned, small.measured), (large.planned, large.measured))


def test_the_models_are_the_published_ones() -> None:
    """But for biases of norms, in which they differ."""
    for name, published in {
        "MPT 1B": 1_315_950_592,
        "MPT 3B": 2_651_837_440,
        "MPT 7B": 6_658_859_008,
        "Llama 3.1 8B": 8_030_261_248,
    }.items():
        assert count_parameters(MODELS[name]).total == pytest.approx(published, rel=1e-3)


def test_calibration_meets_its_points(mpt: HardwareConfig, nemotron: HardwareConfig) -> None:
    for runs, fitted in (((MPT_3B[16], MPT_3B[128]), mpt), ((NEMOTRON[16], NEMOTRON[512]), nemotron)):
        for run in runs:
            assert run.planned(fitted) == pytest.approx(run.measured, rel=1e-3)
    # Two programs on two clusters: the same network, by and large.
    assert mpt.network_latency_us == pytest.approx(nemotron.network_latency_us, rel=0.3)


@pytest.mark.parametrize("run", [MPT_3B[256], MPT_3B[512], *MPT_7B.values(), *MPT_1B.values()])
def test_mpt(run: object, mpt: HardwareConfig) -> None:
    """Asked for: 15 %. MPT 3B at 512 GPUs and MPT 7B are within 4 %."""
    assert run.planned(mpt) == pytest.approx(run.measured, rel=0.05)  # type: ignore[attr-defined]


def test_without_calls_to_the_network_512_gpus_would_be_off(mpt: HardwareConfig) -> None:
    """What is lost from 128 to 512 GPUs, 7.5 %, is predicted and not within any tolerance by itself."""
    lost = 1 - MPT_3B[512].planned(mpt) / MPT_3B[128].planned(mpt)
    assert lost == pytest.approx(1 - 21_664 / 23_422, rel=0.3)


def test_nemotron_scales_as_published(nemotron: HardwareConfig) -> None:
    """The slope: what is lost from 16 to 2,048 GPUs, 4.3 %, within a tenth of itself."""
    for run in NEMOTRON.values():
        assert run.planned(nemotron) == pytest.approx(run.measured, rel=0.01)
    lost = 1 - NEMOTRON[2_048].planned(nemotron) / NEMOTRON[16].planned(nemotron)
    assert lost == pytest.approx(1 - 5_894 / 6_159, rel=0.1)


@pytest.mark.parametrize("run", LLAMA_8B.values())
def test_a_wide_model_without_any_calibration(run: MegatronRun) -> None:
    """Llama 3.1 8B does 62 % MFU: what one narrow model on one H200 taught about kernels is not too good."""
    assert run.planned(H100) == pytest.approx(run.measured, rel=0.05)


def test_data_sheets_alone_are_not_far(nemotron: HardwareConfig) -> None:
    """Nemotron-4 15B with what one H200 taught about kernels."""
    assert NEMOTRON[16].planned(H100) == pytest.approx(6_159, rel=0.1)
    assert nemotron.kernel_speed == pytest.approx(1, abs=0.1)
