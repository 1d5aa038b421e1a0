"""Fits what a data sheet does not say of a cluster, so that plans meet measured speeds. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recipes.config.cluster_schema import HardwareConfig
from recipes.errors import UserError

Speed = Callable[[HardwareConfig], float]
"""Tokens per second of one GPU that a plan expects on this hardware."""
ROUNDS = 40
LATENCIES = (0.1, 10_000.0)
"""Microseconds per hop between which the network's is looked for."""


def calibrate_kernels(hardware: HardwareConfig, speed: Speed, measured: float) -> HardwareConfig:
    """The hardware whose kernel_speed makes the planned speed the measured one.

    Raises:
        UserError: no speed of kernels does, because communication alone takes longer.
    """
    low, high = 0.01, 10.0
    if (
        not speed(replace(hardware, kernel_speed=low))
        <= measured
        <= speed(replace(hardware, kernel_speed=high))
    ):
        raise UserError(f"{measured:,.0f} tokens/s per GPU cannot be met by any speed of the kernels")
    for _ in range(ROUNDS):
        middle = (low * high) ** 0.5
        if speed(replace(hardware, kernel_speed=middle)) < measured:
            low = middle
        else:
            high = middle
    return replace(hardware, kernel_speed=(low * high) ** 0.5)


def calibrate_scaling(
    hardware: HardwareConfig, small: tuple[Speed, float], large: tuple[Speed, float]
) -> HardwareConfig:
    """The hardware whose kernel_speed and network_latency_us meet two measured runs.

    Args:
        hardware: the cluster's, as its data sheets say.
        small: what is planned for a run on few nodes, and its measured tokens per second of one GPU.
        large: the same of a run on many, which loses more to the network.
    """
    low, high = LATENCIES
    for _ in range(ROUNDS // 2):
        middle = (low * high) ** 0.5
        fitted = calibrate_kernels(replace(hardware, network_latency_us=middle), *small)
        if large[0](fitted) > large[1]:
            low = middle
        else:
            high = middle
    return calibrate_kernels(replace(hardware, network_latency_us=(low * high) ** 0.5), *small)
