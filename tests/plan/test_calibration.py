"""What calibration finds again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.config.cluster_schema import HardwareConfig
from recipes.errors import UserError
from recipes.plan.calibration import calibrate_kernels, calibrate_scaling

PLAIN = HardwareConfig(gpu="h100", nvlink_gb_per_s=450, network_gb_per_s=50)


def small(hardware: HardwareConfig) -> float:
    return 1000 / (1 / hardware.kernel_speed + 1e-4 * hardware.network_latency_us)


def large(hardware: HardwareConfig) -> float:
    return 1000 / (1 / hardware.kernel_speed + 2e-3 * hardware.network_latency_us)


def test_the_speed_of_kernels() -> None:
    true = replace(PLAIN, kernel_speed=0.77)
    assert calibrate_kernels(PLAIN, small, small(true)).kernel_speed == pytest.approx(0.77, rel=1e-6)


def test_the_speed_of_kernels_and_the_network() -> None:
    true = replace(PLAIN, kernel_speed=0.9, network_latency_us=33.0)
    fitted = calibrate_scaling(PLAIN, (small, small(true)), (large, large(true)))
    assert fitted.kernel_speed == pytest.approx(0.9, rel=1e-3)
    assert fitted.network_latency_us == pytest.approx(33.0, rel=1e-3)
    assert replace(fitted, kernel_speed=1.0, network_latency_us=PLAIN.network_latency_us) == PLAIN


def test_a_speed_beyond_all_kernels() -> None:
    with pytest.raises(UserError, match="cannot be met"):
        calibrate_kernels(PLAIN, small, 1e9)
