"""Every kernel that the shipped models launch, compiled for the cards that users have, without one.

On a GPU: tests/cuda. In the interpreter: test_interpreted.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from tests.support.engine import process_groups
from tests.support.kernel_launches import (
    CARDS,
    HOPPER,
    SMALL,
    Card,
    Launches,
    compiled,
    launch_advance,
    launch_steps,
    launch_training,
    launches_on,
    shipped,
)
from tests.support.triton import NEEDS_COMPILER

pytestmark = NEEDS_COMPILER

A_FEW = 16
"""Bytes of a thread that ptxas keeps in memory although registers are left."""
MODELS = ["param1_2p9b", "nano_hindi_25m", "gemma3_hindi_270m", "param2_17b_a2p4b", "param_moe_0p5b"]


def assert_fit(launches: Launches, note: Any, *, spills: bool = False) -> None:
    """All compile, into registers alone and with no more shared memory than a program may have."""
    assert launches.found
    for launch in launches.found.values():
        made = compiled(launch)
        note("kernel", asdict(made))
        assert made.shared <= launches.card.shared, f"{launch}: {made.shared} bytes of shared memory"
        assert spills or made.stack <= A_FEW, f"{launch}: {made.stack} bytes a thread in memory"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_steps(card: Card, model: str, record_property: Any) -> None:
    """Batches whose products have the least and the most rows."""
    with process_groups(), launches_on(card) as launches:
        launch_steps(shipped(model), torch.bfloat16, (1, 64))
    assert_fit(launches, record_property)
    experts = {"_inner", "_outer"}
    for launch in launches.found.values():
        assert launch.options.launch_pdl == (card.capability >= 90 and launch.name not in experts)


@pytest.mark.parametrize("model", ["param1_2p9b", "gemma3_hindi_270m"])
@pytest.mark.parametrize("card", [SMALL, HOPPER], ids=lambda card: card.name)
def test_steps_in_fp32(card: Card, model: str) -> None:
    """Exact products of fp32 are not for tensor cores; some do not fit into registers: slow, but right."""
    with process_groups(), launches_on(card) as launches:
        launch_steps(shipped(model), torch.float32, (1, 64))
    assert_fit(launches, lambda *_: None, spills=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("card", [Card("T4", 75, 64 * 1024), *CARDS], ids=lambda card: card.name)
def test_training_and_rows(card: Card, dtype: torch.dtype, record_property: Any) -> None:
    with launches_on(card) as launches:
        for model in MODELS:
            launch_training(shipped(model), dtype)
        launch_advance()
    assert {launch.name for launch in launches.found.values()} == {"_rotate", "_gradient", "_advance"}
    assert_fit(launches, record_property)
