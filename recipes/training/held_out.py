"""The figures of a validation: of every held-out set, by the weights and by their averages."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from recipes.config.trainer_schema import EmaConfig
from recipes.data.samples.indexed import check_prefix

WEIGHTS, AVERAGES = "", "ema_"
"""How the names of their figures begin."""


def validates_averages(ema: EmaConfig) -> bool:
    """Whether the run's validations read every held-out set twice."""
    return ema.decay is not None and ema.validate


class HeldOutFigures:
    """Adds up losses over a validation's batches.

    Args:
        valid: name of a held-out set -> prefix of its files. Data loaders come in this order, first for the
            weights, then perhaps all once more for the averages.
    """

    def __init__(self, valid: Mapping[str, str]) -> None:
        self.valid, self.names = valid, list(valid)
        self._sums: dict[tuple[str, str], Tensor] = {}

    def kind(self, loader: int) -> str:
        """What the ``loader``-th data loader is read by: :data:`WEIGHTS` or :data:`AVERAGES`."""
        return WEIGHTS if loader < len(self.names) else AVERAGES

    def add(self, loader: int, sums: Tensor) -> None:
        """``sums``, ``[2]``: of a batch's losses, and how many tokens they are of; on all ranks."""
        key = self.names[loader % len(self.names)], self.kind(loader)
        self._sums[key] = self._sums[key] + sums if key in self._sums else sums

    def clear(self) -> None:
        """Before the next validation."""
        self._sums = {}

    def metrics(self) -> dict[str, float]:
        """Loss per token and bits per byte by their names in metrics.jsonl; none after :meth:`clear`."""
        found = {}
        for (name, kind), sums in self._sums.items():
            loss = (sums[0] / sums[1]).item()
            found[f"valid.{name}.{kind}loss"] = loss
            sidecar = check_prefix(self.valid[name])
            if sidecar.text_bytes:
                nats_per_byte = loss * sidecar.tokens / sidecar.text_bytes
                found[f"valid.{name}.{kind}bits_per_byte"] = nats_per_byte / math.log(2.0)
        return found
