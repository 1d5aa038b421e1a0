"""The part of a model that a rank holds, and what the ranks of one model tell each other while it decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.core.inference.communication_utils import (
    recv_from_prev_pipeline_rank_,
    send_to_next_pipeline_rank,
)
from megatron.core.tensor_parallel import (
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor
from torch.nn.functional import embedding


@dataclass(frozen=True)
class Share:
    """By default the whole model.

    Tensor-parallel ranks hold rows of the word embeddings, of ``linear_qkv``, ``linear_fc1`` and the head,
    and columns of ``linear_proj`` and ``linear_fc2``, as in Megatron-LM (arXiv 1909.08053, section 3).
    Pipeline stages hold layers that follow each other. Routed experts lie on ranks of their own choice: some
    of them, or parts of their matrices, wherever megatron-core has put them; they may lie on the ranks of
    other replicas. All ranks make the same calls, with the same tokens.
    """

    tensor: Any = None
    """The process group of the ranks that have parts of the same matrices."""
    pipeline: Any = None
    """That of the stages."""
    experts: Any = None
    """That of the ranks which hold a layer's routed experts together."""

    @property
    def is_whole(self) -> bool:
        """Whether there is no other rank."""
        return self.tensor is None and self.pipeline is None and self.experts is None

    @property
    def is_first(self) -> bool:
        """Whether this stage embeds the tokens."""
        return self.pipeline is None or self.pipeline.rank() == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage has the output head."""
        return self.pipeline is None or self.pipeline.rank() == self.pipeline.size() - 1

    @property
    def parts(self) -> int:
        """In how many parts a matrix is."""
        return 1 if self.tensor is None else self.tensor.size()

    def rows(self, table: Tensor, ids: Tensor) -> Tensor:
        """``[n, h]`` by token id, of a table of which this rank has ``[V / parts, h]``."""
        if self.tensor is None:
            return embedding(ids, table)
        own = ids - self.tensor.rank() * len(table)
        elsewhere = (own < 0) | (own >= len(table))
        return self.summed(embedding(own.masked_fill(elsewhere, 0), table).masked_fill(elsewhere[:, None], 0))

    def summed(self, partial: Tensor) -> Tensor:
        """The sum over the ranks that have parts of the same matrices; ``partial`` is used up."""
        return _sum(partial, self.tensor)

    def summed_over_experts(self, partial: Tensor) -> Tensor:
        """The sum over the ranks that have a layer's routed experts; ``partial`` is used up."""
        return _sum(partial, self.experts)

    def joined(self, columns: Tensor) -> Tensor:
        """``[n, V / parts]`` of each rank -> ``[n, V]``."""
        if self.tensor is None:
            return columns
        whole: Tensor = gather_from_tensor_model_parallel_region(columns, group=self.tensor)
        return whole

    def receive(self, like: Tensor) -> Tensor:
        """What the stage before sends, into ``like``."""
        recv_from_prev_pipeline_rank_(like, self.pipeline)
        return like

    def send(self, hidden: Tensor) -> None:
        """To the stage that follows, if there is one."""
        if not self.is_last:
            send_to_next_pipeline_rank(hidden.contiguous(), self.pipeline)


def _sum(partial: Tensor, group: Any) -> Tensor:
    if group is None:
        return partial
    total: Tensor = reduce_from_tensor_model_parallel_region(partial, group=group)
    return total


WHOLE = Share()
