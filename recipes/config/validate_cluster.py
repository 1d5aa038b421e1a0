"""Refuses clusters that cannot be, before anything is planned for them."""

from __future__ import annotations

from recipes.checks import not_negative, one_of, positive, refuse
from recipes.config.cluster_schema import UNKNOWN, ClusterConfig
from recipes.config.devices import GPUS


def validate_cluster(cluster: ClusterConfig) -> int:
    """Checks a cluster; returns its number of GPUs.

    Raises:
        UserError: with the key, the value and the fix.
    """
    positive("cluster.nodes", cluster.nodes)
    positive("cluster.gpus_per_node", cluster.gpus_per_node)
    hardware, key = cluster.hardware, "cluster.hardware"
    if hardware.gpu == UNKNOWN:
        fix = f"plans are for GPUs: set it to one of {', '.join(GPUS)}; of a CPU, "
        refuse(
            f"{key}.gpu", UNKNOWN, f"{fix}--measure says the speed and recipes.pretrain dry_run=true the time"
        )
    one_of(f"{key}.gpu", hardware.gpu, tuple(GPUS))
    for name in ("nvlink_gb_per_s", "network_gb_per_s", "storage_gb_per_s", "kernel_speed"):
        positive(f"{key}.{name}", getattr(hardware, name))
    for name in ("nvlink_latency_us", "network_latency_us", "node_power_w"):
        not_negative(f"{key}.{name}", getattr(hardware, name))
    for name in ("gpu_power_w", "price_per_gpu_hour"):
        if (value := getattr(hardware, name)) is not None:
            positive(f"{key}.{name}", value)
    if not 0 < hardware.link_efficiency <= 1:
        refuse(f"{key}.link_efficiency", hardware.link_efficiency, "must be above 0 and at most 1, a share")
    if not 0 <= hardware.overlap_cost <= 1:
        refuse(f"{key}.overlap_cost", hardware.overlap_cost, "must lie between 0 and 1, a share")
    if hardware.pue < 1:
        refuse(f"{key}.pue", hardware.pue, "a data centre draws at least what its machines draw; 1 or more")
    return cluster.nodes * cluster.gpus_per_node
