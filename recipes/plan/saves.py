"""How long a checkpoint takes on a cluster, and how much of that training waits. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.schema import PretrainConfig
from recipes.plan.memory import checkpoint_bytes

WRITTEN_PER_SECOND = 2e9
"""Bytes that one rank is assumed to hash and to write."""
AGREED_S = 3.0
"""For which training is assumed to wait in any case: all ranks describe what they have and agree that the
first save's plan still holds (making it took rank 0, for Param-1, 0.6 to 2.7 s of a core on 512 ranks, 4.2 to
5.9 s on 4,096), and a background save is published."""


MOST_UNDER_WAY = 2
"""Saves in the background: one that is written, and one whose copies wait for it. A save that takes long once
then holds nobody up. Where all take longer than the time between them, more would not help.
"""
LEFT_FREE = 0.1
"""Of the host memory that is free when a second save is to begin beside the first."""


@dataclass(frozen=True)
class Save:
    """In seconds."""

    held: float
    """For which training waits."""
    written_after: float
    """From then on, until the checkpoint is there while training goes on; 0: training has waited for it."""
    under_way: int = MOST_UNDER_WAY
    """So many may be at a time."""


def expected_save(config: PretrainConfig, cluster: ClusterConfig, ranks: int) -> Save:
    """Every rank writes a part of its own: of the optimizer's state what it updates, and a share of weights.

    Together they write no faster than the file system takes it.
    """
    ema = config.trainer.ema.decay is not None
    size = checkpoint_bytes(config.model, config.optim, bf16=True, ema=ema)
    writing = size / min(ranks * WRITTEN_PER_SECOND, cluster.hardware.storage_gb_per_s * 1e9)
    if config.trainer.checkpoint.async_save is False:
        return Save(AGREED_S + writing, 0.0, 1)
    # On a GPU "auto" is in the background, too.
    return Save(AGREED_S, writing, MOST_UNDER_WAY if _two_fit(config, cluster, size) else 1)


def _two_fit(config: PretrainConfig, cluster: ClusterConfig, size: int) -> bool:
    """Whether the copies of two saves do; taken to, where nobody says what memory is free on nodes."""
    if config.trainer.checkpoint.local.directory is not None:  # They need the room for theirs.
        return False
    free_gb = cluster.launch.health.memory_gb
    return free_gb is None or 2 * size / cluster.nodes <= (1 - LEFT_FREE) * free_gb * 1e9
