"""What only the first rank does while the others wait for how it went."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Trainer

from recipes.checkpoint.save.ranks import raise_together
from recipes.errors import UserError


def on_first_rank(trainer: Trainer, do: Callable[[], None]) -> None:
    """Calls ``do`` on rank 0. Every rank makes this call.

    Raises:
        UserError: what it raises there, on every rank.
    """
    problem = None
    if trainer.is_global_zero:
        try:
            do()
        except UserError as error:
            problem = error
    raise_together(problem)
