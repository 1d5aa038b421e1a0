"""What a micro-batch reports, and what is differentiated."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.usefixtures("engine")


def test_weighted_tokens_are_learned_more_and_shown_as_they_are() -> None:
    from recipes.training.step import _sum_of_losses

    losses = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], requires_grad=True)
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.5, 0.0, 0.5]])
    total, num_tokens, report = _sum_of_losses(mask, losses)
    total.backward()
    assert losses.grad is not None and torch.equal(losses.grad, mask)
    assert total.item() == 25.0
    # The mean is over the tokens that count, however much each does.
    assert num_tokens.item() == 4 and num_tokens.dtype == torch.int32
    assert report["loss"].tolist() == [45.0, 4.0]
