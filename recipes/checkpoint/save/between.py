"""What one save of a run leaves for the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.checkpoint.save.kept_plan import KeptPlan
from recipes.checkpoint.save.shared_out import SharedOut


@dataclass(frozen=True)
class BetweenSaves:
    """Of one run in one process: the tensors and the ranks that have them stay the same."""

    shares: SharedOut = field(default_factory=SharedOut)
    plan: KeptPlan = field(default_factory=KeptPlan)
