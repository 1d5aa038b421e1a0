"""Whether a pass of a split model fits into this rank's memory, found out without the other ranks.

In a pass the ranks wait for each other. One that runs out of memory halfway leaves the others waiting, and
could not tell them to read less. So a rank tries the pass by itself first: it computes its own part and uses
as much memory as in earnest, but what it would exchange with others stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C._distributed_c10d import FakeWork
from torch.utils._python_dispatch import TorchDispatchMode

from recipes.inference.memory import is_out_of_memory, reason_of


def out_of_memory(attempt: Callable[[], object]) -> str | None:
    """Why this rank has too little memory for what ``attempt`` does, exchanges with other ranks left out;
    None if it has enough.
    """
    try:
        with _WithoutOthers():
            attempt()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = reason_of(error)
    else:
        return None
    # Only here, for the error holds what its functions had allocated.
    torch.cuda.empty_cache()
    return reason


class _WithoutOthers(TorchDispatchMode):
    """Operations between ranks return at once. What is gathered is like this rank's own, so that experts get
    about as many tokens as in earnest; what is received does not matter.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace != "c10d":
            return func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name == "_allgather_base_":
            gathered, own = args[:2]
            gathered.view(-1, own.numel()).copy_(own.reshape(1, -1))
        elif name == "allgather_":
            for parts, own in zip(*args[:2], strict=True):
                for part in parts:
                    part.copy_(own)
        work = FakeWork().boxed()
        return work if len(func._schema.returns) == 1 else (args[0], work)
