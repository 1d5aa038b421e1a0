"""Clusters that are refused, and those that are shipped."""

from __future__ import annotations

import pytest

from recipes.config.cluster_schema import HardwareConfig
from recipes.config.hydra_app import compose
from recipes.config.validate_cluster import validate_cluster
from recipes.errors import UserError
from tests.support.configs import options


@pytest.mark.parametrize("name", options("cluster"))
def test_shipped_clusters(name: str) -> None:
    cluster = compose("cluster", [f"cluster={name}"]).cluster
    if cluster.hardware == HardwareConfig():  # Runs are started there, whatever it is made of.
        refusal = r"cluster\.hardware\.gpu=unknown: plans are for GPUs: set it to one of"
        with pytest.raises(UserError, match=refusal):
            validate_cluster(cluster)
    else:
        assert validate_cluster(cluster) == cluster.nodes * cluster.gpus_per_node


def test_the_flagship_has_512_gpus() -> None:
    assert validate_cluster(compose("cluster", ["cluster=shakti_512xh100"]).cluster) == 512


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("nodes=0", "cluster.nodes=0: must be positive"),
        ("gpus_per_node=-1", "cluster.gpus_per_node=-1: must be positive"),
        ("hardware.gpu=h1000", r"cluster\.hardware\.gpu=h1000: choose one of .*; did you mean h100"),
        ("hardware.network_gb_per_s=0", "network_gb_per_s=0.0: must be positive"),
        ("hardware.network_latency_us=-1", "network_latency_us=-1.0: must not be negative"),
        ("hardware.kernel_speed=0", "kernel_speed=0.0: must be positive"),
        ("hardware.link_efficiency=1.5", "link_efficiency=1.5: must be above 0 and at most 1"),
        ("hardware.overlap_cost=-0.1", "overlap_cost=-0.1: must lie between 0 and 1"),
        ("hardware.pue=0.9", "pue=0.9: a data centre draws at least"),
        ("hardware.gpu_power_w=0", "gpu_power_w=0.0: must be positive"),
        ("hardware.node_power_w=-5", "node_power_w=-5.0: must not be negative"),
        ("hardware.price_per_gpu_hour=-2", "price_per_gpu_hour=-2.0: must be positive"),
    ],
)
def test_impossible_clusters(setting: str, message: str) -> None:
    cluster = compose("cluster", ["cluster=shakti_512xh100", f"cluster.{setting}"]).cluster
    with pytest.raises(UserError, match=message):
        validate_cluster(cluster)
