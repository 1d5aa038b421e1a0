"""fp16's loss scale, which megatron-core's DynamicGradScaler moves."""

from __future__ import annotations

from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.grad_scaler import DynamicGradScaler


class LossScale:
    """What the last step did to the loss scale. The host knows it at once: with fp16 megatron-core asks."""

    def __init__(self, scaler: DynamicGradScaler) -> None:
        self._scaler = scaler
        self.before = self.now
        self.overflowed = False
        """Whether the last step's gradients were not finite: it changed no weights."""

    @property
    def now(self) -> float:
        return float(self._scaler.scale)

    @property
    def at_minimum(self) -> bool:
        """Whether an overflow can lower it no more."""
        return self.now <= float(self._scaler.min_scale)

    def begin(self) -> None:
        """A step begins."""
        self.before = self.now

    def end(self, *, overflowed: bool) -> None:
        """It has ended."""
        self.overflowed = overflowed


def loss_scale_of(optimizer: MegatronOptimizer) -> LossScale | None:
    """The optimizer's; None unless it trains in fp16."""
    scaler = getattr(optimizer.chained_optimizers[0], "grad_scaler", None)
    return LossScale(scaler) if isinstance(scaler, DynamicGradScaler) else None
