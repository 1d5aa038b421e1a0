"""The kernels against float64 in Triton's interpreter, which needs no GPU.

The same cases on a GPU: tests/cuda. Registers and shared memory: test_compiled.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.advance_cases import advanced
from tests.support.attention_kernel_cases import CASES as ATTENTION
from tests.support.attention_kernel_cases import attended, inputs_of
from tests.support.decode_cases import assert_every_position_agrees, tiny_model
from tests.support.decode_kernel_cases import DTYPES, SHAPES, DecodeKernels
from tests.support.huggingface_models import CASES
from tests.support.interpreter import interpreting, starting_early
from tests.support.training_kernel_cases import TrainingKernels
from tests.support.triton import NEEDS_INTERPRETER

pytestmark = [NEEDS_INTERPRETER, pytest.mark.usefixtures("interpreter")]

FAMILIES = ("llama", "gemma3", "nano_hindi", "param_moe", "glm4_moe_partly_rotated")


@pytest.fixture
def interpreter() -> Iterator[None]:
    with interpreting():
        yield


class TestDecodeKernels(DecodeKernels):
    device = "cpu"
    bf16_tolerance = 0.03


class TestTrainingKernels(TrainingKernels):
    device = "cpu"


def test_rows_advance_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = advanced("cpu")
    monkeypatch.setattr("recipes.inference.rows.has_triton", lambda device: True)
    for one, other in zip(expected, advanced("cpu"), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_position_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole steps by the kernels, out of any window, against passes over the whole text."""
    monkeypatch.setattr("tests.support.decode_cases.STEPS", 3)
    monkeypatch.setattr("recipes.inference.decode.fused.has_triton", lambda device: True)
    assert_every_position_agrees(tiny_model(CASES[name]), CASES[name], 64, tolerance=1e-4)


# Starting early, as on Hopper. What the kernel before wrote is not among what may be read at once.


@pytest.mark.parametrize("gate", [0, 1])
@pytest.mark.parametrize(("outer", "inner"), SHAPES)
def test_products_start_early(outer: int, inner: int, gate: int) -> None:
    from recipes.inference.decode.product_kernel import PLAIN, product_parts, whole_product

    rows, weight = torch.randn(3, inner).bfloat16(), torch.randn(2 * outer, inner).bfloat16()
    expected = product_parts(rows, weight) if gate == PLAIN else whole_product(rows, weight, gate)
    with starting_early([weight]) as watched:
        found = product_parts(rows, weight) if gate == PLAIN else whole_product(rows, weight, gate)
    assert torch.equal(found, expected)
    even = inner % 128 == 0  # Elsewhere a row's end is no multiple of 16 bytes from its start.
    assert (watched.asked_for > 0) == even and watched.asked_for <= weight.nbytes


@pytest.mark.parametrize("parts", [0, 4])
def test_norms_start_early(parts: int) -> None:
    from recipes.inference.decode.norm import Norm
    from recipes.inference.decode.norm_kernel import add_and_norm

    hidden, gain = torch.randn(3, 72), torch.randn(72)
    added = torch.randn(parts, 3, 72) if parts else None
    norm = Norm(72, 1e-5, gain)
    with starting_early([gain, hidden] if parts else [gain]):
        found = add_and_norm(hidden, added, norm, norm)
    for one, other in zip(found, add_and_norm(hidden, added, norm, norm), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_starts_early(name: str, dtype: torch.dtype) -> None:
    case = ATTENTION[name]
    given, again = inputs_of(case, dtype, "cpu"), inputs_of(case, dtype, "cpu")
    with starting_early(given.older()) as watched:
        found = attended(case, given)
    assert torch.equal(found, attended(case, again))
    kept = sum(min(position, case.capacity) for position in case.positions) * case.groups * case.width
    pieces = 2 * kept * dtype.itemsize  # Of keys and of values.
    assert watched.asked_for == (pieces if case.width * dtype.itemsize % 16 == 0 else 0)
