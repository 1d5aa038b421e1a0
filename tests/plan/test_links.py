"""Groups of ranks, and how long they talk, against numbers worked out here."""

from __future__ import annotations

import pytest

from recipes.config.cluster_schema import HardwareConfig
from recipes.plan.links import Group, all_to_all_seconds, group_of, ring_seconds, send_seconds

HARDWARE = HardwareConfig(
    gpu="h100", nvlink_gb_per_s=400, network_gb_per_s=50, nvlink_latency_us=2, network_latency_us=10,
    link_efficiency=0.5,
)  # fmt: skip
GB = 1e9


@pytest.mark.parametrize(
    ("size", "stride", "per_node"),
    [(8, 1, 8), (2, 1, 2), (64, 8, 1), (64, 2, 4), (4, 2, 4), (4, 16, 1), (512, 1, 8)],
)
def test_neighbours_share_a_node(size: int, stride: int, per_node: int) -> None:
    group = group_of(size, stride, 8)
    assert group == Group(size, per_node)
    assert group.link == ("network" if size > per_node else "NVLink")


def test_a_ring_inside_a_node() -> None:
    """7/8 of a gigabyte at half of 400 GB/s, and 7 hops."""
    assert ring_seconds(Group(8, 8), GB, HARDWARE) == pytest.approx(7 * 2e-6 + 0.875 / 200)


def test_a_ring_between_nodes_uses_all_ports_of_the_group() -> None:
    """16 ranks on 2 nodes: 8 ports of 50 GB/s are as fast as NVLink; one hop leaves the node."""
    assert ring_seconds(Group(16, 8), GB, HARDWARE) == pytest.approx(14 * 2e-6 + 10e-6 + 15 / 16 / 200)
    # One rank on each node has one port.
    assert ring_seconds(Group(16, 1), GB, HARDWARE) == pytest.approx(15 * 10e-6 + 15 / 16 / 25)


def test_all_to_all_leaves_by_the_own_port() -> None:
    seconds = all_to_all_seconds(Group(16, 8), GB, HARDWARE)
    assert seconds == pytest.approx(10e-6 + 0.5 / 25)
    assert all_to_all_seconds(Group(8, 8), GB, HARDWARE) == pytest.approx(2e-6 + 0.875 / 200)


def test_sending_and_being_alone() -> None:
    assert send_seconds(Group(4, 1), GB, HARDWARE) == pytest.approx(10e-6 + 1 / 25)
    assert send_seconds(Group(4, 4), GB, HARDWARE) == pytest.approx(2e-6 + 1 / 200)
    assert ring_seconds(Group(1, 1), GB, HARDWARE) == all_to_all_seconds(Group(1, 1), GB, HARDWARE) == 0
