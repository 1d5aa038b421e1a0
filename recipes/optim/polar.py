"""Orthogonalisation of a matrix by products alone: the Polar Express."""

from __future__ import annotations

import torch
from torch import Tensor

# Coefficients (a, b, c) of x -> a x + b x^3 + c x^5, one triple per iteration: the greedy composition of
# minimax polynomials that takes singular values from [1e-3, 1] to 1 (Amsel et al. 2025, arXiv 2505.16932,
# algorithm 1 with l = 1e-3 and the cushion 0.02407327424182761 of its published code).
# tests/optim/test_polar.py recomputes them.
COEFFICIENTS = (
    (8.287212018145626, -23.59588651909882, 17.30038731253092),
    (4.107059111542198, -2.947849916737908, 0.5448431082926598),
    (3.948690853482296, -2.908902115962949, 0.5518191394370134),
    (3.318419657370597, -2.488488024314872, 0.5100489401237197),
    (2.30065201995482, -1.6689039845747526, 0.41880731195256793),
    (1.891301407787399, -1.2679958271945888, 0.3768040894852493),
    (1.8750014808760502, -1.2500016454452165, 0.3750001645700904),
)
# The paper's safety factor: each polynomial is evaluated at x / 1.01, so that rounding in bfloat16 cannot
# push a singular value out of the interval on which it contracts.
SAFETY = 1.01


def polar_express(matrices: Tensor, iterations: int) -> Tensor:
    """An approximation of U V^T for every matrix U S V^T.

    Args:
        matrices: ``[..., m, n]``, in the dtype to compute in.
        iterations: at most ``len(COEFFICIENTS)``.

    Returns:
        ``[..., m, n]``. With 5 iterations singular values of at least 1e-3 of the Frobenius norm end between
        0.84 and 1.13 (6 iterations: 0.993 and 1.002); smaller ones grow by a factor of about 970 at most.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # The Gram matrix of the shorter side is the smaller one.
    norm = torch.linalg.matrix_norm(x.float(), keepdim=True)
    x = x / (norm * SAFETY + 1e-7).to(x.dtype)
    for a, b, c in COEFFICIENTS[:iterations]:
        gram = x @ x.mT
        odd = b / SAFETY**3 * gram + c / SAFETY**5 * (gram @ gram)
        x = a / SAFETY * x + odd @ x
    return x.mT if tall else x
