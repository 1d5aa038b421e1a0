"""The kernel that ends a step against torch's operations on the CPU."""

from __future__ import annotations

import torch

from tests.support.advance_cases import advanced
from tests.support.cuda import NEEDS_CUDA

pytestmark = NEEDS_CUDA


def test_rows_advance_as_on_the_cpu() -> None:
    for expected, found in zip(advanced("cpu"), advanced("cuda"), strict=True):
        assert torch.equal(expected, found)
