"""Which links a group of ranks talks over, and how long collectives take on them. No torch here.

Ranks are numbered as megatron-core numbers them, tensor parallelism first: tp, cp, dp, pp (experts: etp, ep,
edp, pp), and nodes are filled in that order. So neighbours in a tensor-parallel group share a node, and the
ranks of a data-parallel group are tp x cp apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.cluster_schema import HardwareConfig


@dataclass(frozen=True)
class Group:
    """Ranks that talk to each other."""

    size: int
    per_node: int
    """How many of them share a node."""

    @property
    def leaves_node(self) -> bool:
        return self.size > self.per_node

    @property
    def link(self) -> str:
        return "network" if self.leaves_node else "NVLink"


def group_of(size: int, stride: int, gpus_per_node: int) -> Group:
    """``size`` ranks that are ``stride`` apart."""
    return Group(size, min(size, max(1, gpus_per_node // stride)))


def ring_seconds(group: Group, size: float, hardware: HardwareConfig) -> float:
    """An all-gather or a reduce-scatter over a ring; an all-reduce is both.

    Each rank sends ``(n - 1) / n`` of the whole in ``n - 1`` hops. Where the group leaves the node, its ranks
    there share their network ports, as NCCL's rings do, so together they are as fast as the ports, at most as
    NVLink.

    Args:
        group: the ranks.
        size: bytes of the whole: what each rank holds after the all-gather, or before the reduce-scatter.
        hardware: the links' speeds.
    """
    if group.size == 1:
        return 0.0
    speed, latency = hardware.nvlink_gb_per_s, hardware.nvlink_latency_us * (group.size - 1)
    if group.leaves_node:
        speed = min(speed, hardware.network_gb_per_s * group.per_node)
        between = -(-group.size // group.per_node)
        latency += (hardware.network_latency_us - hardware.nvlink_latency_us) * (between - 1)
    moved = size * (group.size - 1) / group.size
    return latency * 1e-6 + moved / (speed * 1e9 * hardware.link_efficiency)


def all_to_all_seconds(group: Group, size: float, hardware: HardwareConfig) -> float:
    """Every rank sends each other rank its part of ``size`` bytes; those to other nodes leave by its own
    port."""
    if group.size == 1:
        return 0.0
    near = size * (group.per_node - 1) / group.size
    far = size * (group.size - group.per_node) / group.size
    latency = hardware.network_latency_us if group.leaves_node else hardware.nvlink_latency_us
    seconds = max(near / hardware.nvlink_gb_per_s, far / hardware.network_gb_per_s) / 1e9
    return latency * 1e-6 + seconds / hardware.link_efficiency


def send_seconds(group: Group, size: float, hardware: HardwareConfig) -> float:
    """One rank sends ``size`` bytes to the next."""
    speed, latency = hardware.nvlink_gb_per_s, hardware.nvlink_latency_us
    if group.leaves_node:
        speed, latency = hardware.network_gb_per_s, hardware.network_latency_us
    return latency * 1e-6 + size / (speed * 1e9 * hardware.link_efficiency)
