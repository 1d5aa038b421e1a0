"""The Polar Express against singular value decompositions, its coefficients against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.config.validate_optim import MAX_ITERATIONS
from recipes.optim.polar import COEFFICIENTS, polar_express

LOWER, CUSHION = 1e-3, 0.02407327424182761


def minimax_quintic(low: float, high: float) -> np.ndarray:
    """(a, b, c) of the odd quintic nearest to 1 on [low, high]: Remez' exchange on a fine grid."""
    grid = np.concatenate((np.geomspace(low, high, 200_001), np.linspace(low, high, 200_001)))
    points = np.array([low, low + (high - low) / 4, low + 3 * (high - low) / 4, high])
    for _ in range(50):
        system = np.stack((points, points**3, points**5, [1, -1, 1, -1]), axis=1)
        a, b, c, _ = np.linalg.solve(system, np.ones(4))
        error = 1 - (a * grid + b * grid**3 + c * grid**5)
        middle = grid[(grid > low) & (grid < high)]
        inner = 1 - (a * middle + b * middle**3 + c * middle**5)
        exchanged = np.array([low, middle[inner.argmin()], middle[inner.argmax()], high])
        if np.allclose(exchanged, points, rtol=1e-12, atol=0):
            break
        points = exchanged
    assert np.abs(error).max() < 1
    return np.array([a, b, c])


def test_coefficients_are_the_greedy_composition() -> None:
    """Algorithm 1 of arXiv 2505.16932: the interval that each polynomial leaves is the next one's."""
    low, high = LOWER, 1.0
    for expected in COEFFICIENTS[:6]:
        triple = minimax_quintic(max(low, CUSHION * high), high)
        at_ends = [triple @ (x, x**3, x**5) for x in (low, high)]
        triple *= 2 / sum(at_ends)  # Centred around 1 on the whole of [low, high] in spite of the cushion.
        np.testing.assert_allclose(expected, triple, rtol=1e-4)
        low = float(triple @ (low, low**3, low**5))
        high = 2 - low
    # What they converge to: the quintic Newton-Schulz iteration.
    np.testing.assert_allclose(COEFFICIENTS[6], (15 / 8, -10 / 8, 3 / 8), rtol=2e-6)
    assert len(COEFFICIENTS) == MAX_ITERATIONS


def with_condition(shape: tuple[int, int], condition: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(
        torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    values = torch.logspace(0, -math.log10(condition), min(shape), dtype=torch.float64)
    return (u * values) @ v * 37.0  # The scale must not matter.


SHAPES = [(48, 48), (96, 24), (24, 96), (1, 40), (40, 1), (150, 60)]
# After n iterations every singular value is within so much of 1, if it began above 1e-3 of the norm.
REACHED = {5: 0.16, 6: 7e-3, 7: 2e-5}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("condition", [1, 10, 100])
@pytest.mark.parametrize("iterations", REACHED)
def test_polar_factor(shape: tuple[int, int], condition: float, iterations: int) -> None:
    matrix = with_condition(shape, condition)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    for dtype, rounding in ((torch.float64, 0.0), (torch.float32, 2e-4)):
        result = polar_express(matrix.to(dtype), iterations)
        assert result.dtype == dtype
        error = torch.linalg.matrix_norm(result.double() - u @ v, ord=2)
        assert error < REACHED[iterations] + rounding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_does_not_diverge(shape: tuple[int, int]) -> None:
    for condition in (1, 100, 1e6):
        matrix = with_condition(shape, condition)
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        result = polar_express(matrix.bfloat16(), 5).double()
        assert torch.linalg.matrix_norm(result, ord=2) < 1.2
        kept = values > 1e-2 * values.norm()
        along = torch.einsum("mk,mn,kn->k", u, result, v)[kept]  # Of the original's singular directions.
        assert ((along - 1).abs() < 0.25).all()


def test_a_stack_is_its_matrices_and_zero_stays_zero() -> None:
    stack = torch.stack((with_condition((20, 30), 10), torch.zeros(20, 30, dtype=torch.float64)))
    together = polar_express(stack, 5)
    torch.testing.assert_close(together[0], polar_express(stack[0], 5))
    assert torch.equal(together[1], stack[1])
