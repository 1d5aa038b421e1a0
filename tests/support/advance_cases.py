"""Rows of all kinds: some go on, some end by a token or by their number, some have ended."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.inference.requests import Request
from recipes.inference.rows import Needs, Rows

VOCABULARY = 50


def advanced(device: str) -> list[Tensor]:
    """The rows' numbers after each of some steps, on the CPU."""
    rows = Rows(7, VOCABULARY, torch.device(device))
    rows.set(0, Request((5, 6), 10))
    rows.set(1, Request((7,), 2))
    rows.set(2, Request((8, 9, 3), 10, end_ids=frozenset({11, 12})))
    rows.set(3, Request((8, 9, 3), 10, end_ids=frozenset(range(20, 28))))
    rows.set(4, Request((1,), 10))
    rows.stop(4)
    found = []
    generator = torch.Generator().manual_seed(0)
    for count in (5, 3, 5, 7):
        ids = torch.randint(10, 30, (count,), generator=generator)
        ids[2] = 12
        rows.advance(slice(0, count), ids.to(device), Needs())
        columns = rows.last, rows.position, rows.count, rows.active
        found.append(torch.stack(columns).cpu())
    return found
