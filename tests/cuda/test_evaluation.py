"""Evaluation on a GPU: memory that runs out. On the CPU: tests/evaluation/test_work.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from recipes.evaluation.journal import Answers
from recipes.evaluation.work import Work
from tests.support.cuda import NEEDS_CUDA
from tests.support.evaluation_cases import unit

pytestmark = NEEDS_CUDA
GIB = 1 << 30


@pytest.fixture
def three_gib() -> Iterator[None]:
    """This process may use no more, beside what it has."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    limit = torch.cuda.memory_reserved() + 3.5 * GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_exceeds_the_memory_is_halved(three_gib: None) -> None:
    sizes = []

    def answer(items: Sequence[int]) -> Answers:
        sizes.append(len(items))
        held = torch.empty(len(items) * GIB, dtype=torch.uint8, device="cuda")
        return {item: held.numel() // GIB for item in items}

    found = [*Work().answers([unit(answer, [*range(8)])], "", quiet=True)]
    assert sizes == [8, 4, 2, 2, 4, 2, 2] and found == [dict.fromkeys(range(8), 2)]
