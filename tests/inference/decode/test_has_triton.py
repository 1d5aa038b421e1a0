"""Which devices run the Triton kernels."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from recipes.inference.decode.has_triton import has_triton


@pytest.mark.parametrize(
    ("capability", "runs"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((12, 0), True)]
)
def test_cards_from_ampere_on(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    assert has_triton(torch.device("cuda")) is runs
    assert not has_triton(torch.device("cpu"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not has_triton(torch.device("cuda"))
