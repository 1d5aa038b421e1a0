"""Every setting of a cluster: what its machines are, and how runs are started on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from recipes.config.launch_schema import LaunchConfig

UNKNOWN = "unknown"


@dataclass(frozen=True)
class HardwareConfig:
    """What the machines can do, for tools.plan, which needs the first three. Speeds are those of data sheets;
    see the three measured ones at the end."""

    gpu: str = UNKNOWN
    """h200, h100, a100_80gb, a100_40gb, l40s, rtx4090 or rtx3090."""
    nvlink_gb_per_s: float = 0.0
    """Between GPUs of a node: gigabytes per second of one GPU in one direction (H100: 450; PCIe 5: 64)."""
    network_gb_per_s: float = 0.0
    """Between nodes: gigabytes per second for one GPU in one direction (400 Gbit/s for each GPU: 50)."""
    nvlink_latency_us: float = 1.5
    """Microseconds that a collective needs for one hop inside a node, besides moving its bytes."""
    network_latency_us: float = 70.0
    """The same for a hop between nodes, with what collectives lose to contention and to slow nodes: published
    runs on up to 2,048 H100 fit 70 to 85."""
    storage_gb_per_s: float = 20.0
    """What the shared file system takes from all nodes together: gigabytes per second."""
    gpu_power_w: float | None = None
    """Draw of one GPU in training, in watts; None: energy is not told."""
    node_power_w: float = 0.0
    """Draw of a node's other parts: processors, memory, network cards, fans."""
    pue: float = 1.0
    """Power of the whole data centre over that of its machines (power usage effectiveness)."""
    price_per_gpu_hour: float | None = None
    """In any currency; None: no price is told."""
    kernel_speed: float = 1.0
    """How fast kernels run, relative to what this project measured (docs/performance.md) and scaled by the
    GPU's peak and bandwidth. `tools.plan --measure` prints it."""
    link_efficiency: float = 0.8
    """Share of a link's speed that collectives reach."""
    overlap_cost: float = 0.15
    """Share of its time that a collective costs although it is hidden behind kernels: NCCL takes some 20 of
    an H100's 132 multiprocessors away from them."""


@dataclass(frozen=True)
class ClusterConfig:
    """A cluster of equal nodes."""

    nodes: int = MISSING
    """Nodes that a run gets."""
    gpus_per_node: int = MISSING
    """GPUs of a node; a run has one process for each."""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)


@dataclass(frozen=True)
class ClusterJob:
    """What `cluster=NAME` and `cluster.*` set; beside a described run, in tools.plan and tools.launch."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
