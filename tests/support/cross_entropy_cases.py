"""Logits over a vocabulary and what torch makes of them in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recipes.model.cross_entropy import vocab_parallel_cross_entropy


def case(vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``[3, 4, V]`` up to about 40, labels also at both ends of the vocabulary, losses' gradients."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (torch.randn(3, 4, vocabulary, generator=generator) * 8).to(dtype)
    labels = torch.randint(vocabulary, (3, 4), generator=generator)
    labels[0, 0], labels[2, 3] = 0, vocabulary - 1
    return logits, labels, torch.rand(3, 4, generator=generator)


def expected(
    logits: Tensor, labels: Tensor, gradient: Tensor, soft_cap: float | None, z_loss_coeff: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Losses without the z-loss, and the gradient with it, in float64."""
    exact = logits.double().requires_grad_()
    capped = exact if soft_cap is None else soft_cap * torch.tanh(exact / soft_cap)
    losses = functional.cross_entropy(capped.flatten(0, 1), labels.flatten(), reduction="none").view_as(
        labels
    )
    (losses + z_loss_coeff * capped.logsumexp(dim=-1).square()).backward(gradient.double())
    assert exact.grad is not None
    return losses.detach(), exact.grad


def assert_agrees(
    vocabulary: int,
    dtype: torch.dtype,
    soft_cap: float | None,
    device: str = "cpu",
    slack: float = 1.0,
    z_loss_coeff: float = 0.0,
) -> None:
    """Losses and gradients on the device are torch's in float64, within ``slack`` times fp32's rounding."""
    logits, labels, gradient = (tensor.to(device) for tensor in case(vocabulary, dtype))
    losses, slopes = expected(logits, labels, gradient, soft_cap, z_loss_coeff)
    ours = logits.requires_grad_()
    found = vocab_parallel_cross_entropy(ours, labels, soft_cap=soft_cap, z_loss_coeff=z_loss_coeff)
    found.backward(gradient)
    assert found.dtype == torch.float32 and ours.grad is not None and ours.grad.dtype == dtype
    torch.testing.assert_close(found.double(), losses, rtol=0, atol=slack * 1e-5)
    rounding = 2**-8 if dtype == torch.bfloat16 else slack * 2e-6
    torch.testing.assert_close(
        ours.grad.double(), slopes, rtol=rounding, atol=1e-6 * slopes.abs().max().item()
    )
