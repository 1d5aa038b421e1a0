"""The matrices inside megatron-core's parameters, and their global form under tensor parallelism.

A parameter may hold several matrices (queries, keys and values; gate and up), each split over tensor-parallel
ranks. Muon treats each of them as the whole matrix of the model, whatever the layout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from recipes.errors import UserError


@dataclass(frozen=True)
class MatrixLayout:
    """How one parameter's rows form matrices, and how these are split over ranks."""

    blocks: tuple[int, ...]
    """Rows of each matrix in one period of this rank's rows, the period repeating as often as it fits."""
    partition_dim: int = 0
    """The dimension that is split over ``group``."""
    group: dist.ProcessGroup | None = None
    """None: every rank has whole matrices."""

    @property
    def ranks(self) -> int:
        return self.group.size() if self.group else 1

    def parts(self, tensor: Tensor) -> list[Tensor]:
        """Each matrix's share of ``tensor`` ``[r, c]``: views ``[periods, rows per period, c]``."""
        return list(tensor.view(-1, sum(self.blocks), tensor.shape[-1]).split(self.blocks, dim=1))

    def global_shapes(self, shape: torch.Size) -> list[tuple[int, int]]:
        """``(rows, columns)`` of the whole matrices of a parameter whose share here is ``shape``."""
        periods = shape[0] // sum(self.blocks)
        factor = [1, 1]
        factor[self.partition_dim] = self.ranks
        return [(periods * rows * factor[0], shape[1] * factor[1]) for rows in self.blocks]

    def gather(self, shares: Tensor) -> Tensor:
        """``[n, r, c]``, this rank's shares of n matrices -> ``[n, R, C]``, whole, on every rank."""
        if self.group is None:
            return shares
        gathered = [torch.empty_like(shares) for _ in range(self.ranks)]
        dist.all_gather(gathered, shares.contiguous(), group=self.group)
        return torch.cat(gathered, dim=1 + self.partition_dim)

    def share(self, whole: Tensor) -> Tensor:
        """``[n, R, C]`` -> this rank's part of every matrix, a view."""
        if self.group is None:
            return whole
        return whole.chunk(self.ranks, dim=1 + self.partition_dim)[self.group.rank()]


def matrix_layout(name: str, parameter: nn.Parameter, config: TransformerConfig) -> MatrixLayout:
    """The layout of a parameter of kind ``matrix`` by its name in the model.

    ``linear_qkv`` interleaves, per group of heads that share a key and a value, the rows of the queries, the
    key and the value. ``linear_fc1`` of a gated MLP has the rows of gate first, then of up, on every rank.

    Raises:
        UserError: a weight that stacks experts.
    """
    if re.search(r"\.experts\.weight[12]$", name) or parameter.dim() != 2:
        raise UserError(f"optim.name=muon: {name} stacks the matrices of several experts; set optim=adamw")
    head = config.kv_channels
    assert head is not None and config.num_query_groups is not None
    blocks: tuple[int, ...] = (parameter.shape[0],)
    if re.search(r"\.linear_qkv\.weight$", name):
        blocks = (config.num_attention_heads // config.num_query_groups * head, head, head)
    elif config.gated_linear_unit and re.search(r"\.linear_fc1\.weight\d*$", name):
        blocks = (parameter.shape[0] // 2,) * 2
    group = _group(name)
    if not getattr(parameter, "tensor_model_parallel", False) or group.size() == 1:
        return MatrixLayout(blocks)
    return MatrixLayout(blocks, vars(parameter)["partition_dim"], group)


def _group(name: str) -> dist.ProcessGroup:
    """The tensor-parallel ranks, which may be different ones for experts."""
    if ".experts." in name:
        return parallel_state.get_expert_tensor_parallel_group()
    return parallel_state.get_tensor_model_parallel_group()
