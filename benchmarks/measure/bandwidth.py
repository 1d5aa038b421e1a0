"""How fast this process's GPU can read its memory."""

from __future__ import annotations

import torch

from recipes.config.devices import BANDWIDTH


def memory_bandwidth() -> float | None:
    """Bytes per second between this process's GPU and its memory; None if unknown."""
    return BANDWIDTH.get(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
