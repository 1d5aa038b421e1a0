"""Decoding on a GPU: the kernels of a step against whole passes, graphs against single launches.

On the CPU: tests/inference.
"""

from __future__ import annotations

import pytest
import torch

from recipes.inference.engine import Engine, in_order
from recipes.inference.graphs import GraphStepper
from recipes.inference.stepper import Stepper
from tests.support.cuda import NEEDS_CUDA
from tests.support.decode_cases import assert_every_position_agrees, text_model, tiny_model
from tests.support.engine_cases import LENGTH, assert_batches_change_nothing, results, varied_requests
from tests.support.huggingface_models import CASES, LLAMA

pytestmark = [*NEEDS_CUDA, pytest.mark.usefixtures("engine")]

FAMILIES = ("llama", "mistral", "qwen3", "gemma3", "nano_hindi", "param_moe", "glm4_moe")


@pytest.mark.parametrize("name", CASES)
def test_every_position_agrees(name: str) -> None:
    gpt = tiny_model(CASES[name])
    for chunk in (6, 64):
        assert_every_position_agrees(gpt, CASES[name], chunk, tolerance=1e-3)


@pytest.mark.parametrize("name", ["llama", "gemma3", "nano_hindi"])
def test_every_position_agrees_in_bf16(name: str) -> None:
    """Logits of about 4 after a few layers: roundings, which differ in order."""
    assert_every_position_agrees(tiny_model(CASES[name], torch.bfloat16), CASES[name], 64, tolerance=0.3)


@pytest.mark.parametrize("part", [16, 256])
def test_attention_in_parts(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.inference.decode import attention_kernel

    monkeypatch.setattr(attention_kernel, "PART", part)
    monkeypatch.setattr(attention_kernel, "BLOCK", 16)
    assert_every_position_agrees(tiny_model(LLAMA), LLAMA, 64, tolerance=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_graphs_write_what_single_launches_write(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_model(tiny_model(CASES[name]), CASES[name])
    requests = varied_requests(model.vocab_size)
    engine = Engine(model, slots=5, max_length=LENGTH)
    captured = list(in_order(engine, requests))
    assert isinstance(engine.stepper, GraphStepper) and not engine.stepper.fails
    monkeypatch.setattr(GraphStepper, "step", Stepper.step)
    assert results(model, requests, 5) == captured


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_change_nothing(name: str) -> None:
    assert_batches_change_nothing(text_model(tiny_model(CASES[name]), CASES[name]), tolerance=1e-3)
