"""Cross entropy over a vocabulary, for logits that are by far the largest tensor of a training step.

The logits are read once forwards and once backwards, where their gradient takes their place. They are never
stored in fp32: each number becomes one as it is read. megatron-core's function copies them to fp32 and passes
over the copy several times; with 256,000 entries that is a tenth of Param-1's step on an H200.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALL_CAP = 30.0
"""Up to here exp(z - soft_cap) is no smaller than exp(-60): the largest z need not be known."""
ELEMENTS_AT_ONCE = 2**18
"""On the CPU: rows are taken in blocks that stay in its cache."""


def vocab_parallel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    soft_cap: float | None = None,
    group: dist.ProcessGroup | None = None,
    z_loss_coeff: float = 0.0,
) -> Tensor:
    """``log(sum(exp(z))) - z[label]`` per token, with ``z = soft_cap * tanh(logits / soft_cap)``.

    The maximum is subtracted before the exponential and all sums are taken in fp32, whatever the logits are.
    The backward pass runs once, and overwrites the logits with their gradient.

    Args:
        logits: ``[..., V / t]``, contiguous: this rank's slice of the vocabulary, in the order of ranks. They
            must not be used again.
        labels: ``[...]``, ids of the whole vocabulary.
        soft_cap: None leaves the logits as they are.
        group: the t ranks that share the vocabulary; None: this rank has all of it.
        z_loss_coeff: the gradient is that of the loss plus this times ``log(sum(exp(z)))**2`` (PaLM's z-loss,
            arXiv 2204.02311); what is returned is without it.

    Returns:
        ``[...]`` in fp32, the same on all ranks of the group.
    """
    losses: Tensor = _CrossEntropy.apply(logits, labels, soft_cap, group, z_loss_coeff)
    return losses


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        soft_cap: float | None,
        group: dist.ProcessGroup | None,
        z_loss_coeff: float,
    ) -> Tensor:
        width = logits.shape[-1]
        rows = logits.detach().view(-1, width)
        # Other ranks' labels fall outside of 0 to width - 1.
        targets = labels.reshape(-1) - (0 if group is None else group.rank() * width)
        largest, exponentials, of_target = _run(_statistics, rows, targets, soft_cap)
        if group is not None and group.size() > 1:
            own = largest.clone()
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
            sums = torch.stack((exponentials * torch.exp(own - largest), of_target))
            dist.all_reduce(sums, group=group)
            exponentials, of_target = sums.unbind()
        log_sum = largest + exponentials.log()
        ctx.save_for_backward(logits, targets, log_sum)
        ctx.soft_cap, ctx.z_loss_coeff = soft_cap, z_loss_coeff
        return (log_sum - of_target).view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, targets, log_sum = ctx.saved_tensors
        rows = logits.view(-1, logits.shape[-1])
        weight = 1.0 + 2.0 * ctx.z_loss_coeff * log_sum if ctx.z_loss_coeff else None
        function = _put_gradient if rows.is_cuda else _put_gradient_in_place
        _run(function, rows, targets, log_sum, weight, gradient.reshape(-1), ctx.soft_cap)
        return logits, None, None, None, None


def _statistics(rows: Tensor, targets: Tensor, soft_cap: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of ``[n, V]``: the largest z, the sum of exp(z - largest), the target's z or 0 if not here.

    All ``[n]`` in fp32.
    """
    values = _capped(rows.float(), soft_cap)
    largest = _largest(values, soft_cap)
    exponentials = (values - largest).exp().sum(dim=-1, keepdim=True)
    here = (targets >= 0) & (targets < rows.shape[1])
    own = rows.gather(1, targets.clamp(0, rows.shape[1] - 1)[:, None]).squeeze(1)
    return largest.squeeze(1), exponentials.squeeze(1), torch.where(here, _capped(own.float(), soft_cap), 0.0)


def _largest(values: Tensor, soft_cap: float | None) -> Tensor:
    """``[n, 1]``: in this form alone torch's compiler finds it and the sum of exponentials in one pass."""
    cap = _cap_of_rows(values, soft_cap) if values.is_cuda else None
    return values.amax(dim=-1, keepdim=True) if cap is None else cap


def _cap_of_rows(values: Tensor, soft_cap: float | None) -> Tensor | None:
    """What can stand for the largest of each row, which saves a pass over the logits; None: nothing can.

    It costs digits where all z are far below: their sum is wrong by fp32's rounding of ``soft_cap``.
    """
    if soft_cap is None or soft_cap > SMALL_CAP:
        return None
    return torch.full_like(values[:, :1], soft_cap)


def _put_gradient(
    rows: Tensor,
    targets: Tensor,
    log_sum: Tensor,
    weight: Tensor | None,
    gradient: Tensor,
    soft_cap: float | None,
) -> None:
    """Overwrites ``[n, V]``: (softmax(z) - one at the target) * dz/dlogit * ``gradient`` of each row.

    ``weight``: of the softmax in it, ``[n]``; None: 1.
    """
    logits = rows.float()
    values = _capped(logits, soft_cap)
    columns = torch.arange(rows.shape[1], device=rows.device)
    softmax = (values - log_sum[:, None]).exp()
    if weight is not None:
        softmax = softmax * weight[:, None]
    slope = softmax - (columns == targets[:, None]).float()
    if soft_cap is not None:
        slope = slope * (1.0 - (values / soft_cap).square())
    rows.copy_(slope * gradient[:, None])


def _put_gradient_in_place(
    rows: Tensor,
    targets: Tensor,
    log_sum: Tensor,
    weight: Tensor | None,
    gradient: Tensor,
    soft_cap: float | None,
) -> None:
    """The same without a compiler, which fuses the passes that these operations save."""
    values = rows.float()  # Without a copy if the logits are in fp32.
    inner = None
    if soft_cap is not None:
        tanh = values.div_(soft_cap).tanh_()
        inner = 1.0 - tanh.square()
        values = tanh.mul_(soft_cap)
    values.sub_(log_sum[:, None]).exp_()
    if weight is not None:
        values.mul_(weight[:, None])
    here = ((targets >= 0) & (targets < rows.shape[1])).nonzero().squeeze(1)
    values[here, targets[here]] -= 1.0
    values.mul_(gradient[:, None])
    if inner is not None:
        values.mul_(inner)
    if rows.dtype != torch.float32:
        rows.copy_(values)


def _capped(values: Tensor, soft_cap: float | None) -> Tensor:
    if soft_cap is None:
        return values
    return fast_cap(values, soft_cap) if values.is_cuda else soft_cap * torch.tanh(values / soft_cap)


def fast_cap(values: Tensor, soft_cap: float) -> Tensor:
    """``soft_cap * tanh(values / soft_cap)`` in fp32, to 3e-7 of ``soft_cap``.

    A GPU computes a sigmoid by its own exponential, and a tanh by a routine several times as long.
    """
    return soft_cap * (2.0 * torch.sigmoid(values * (2.0 / soft_cap)) - 1.0)


def _run(function: Callable[..., Any], rows: Tensor, *arguments: Any) -> Any:
    """The function, compiled to one or two kernels on a GPU, in blocks of rows on the CPU."""
    if rows.is_cuda:
        return _compiled(function)(rows, *arguments)
    block = max(1, ELEMENTS_AT_ONCE // rows.shape[1])

    def part(start: int) -> Any:
        own = (a[start : start + block] if torch.is_tensor(a) else a for a in (rows, *arguments))
        return function(*own)

    parts = [part(start) for start in range(0, len(rows), block)]
    return None if parts[0] is None else tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True)
