"""What ends a step: every row's new token is noted, as one Triton kernel. Imported on GPUs alone.

torch needs a dozen kernels of a microsecond each for these few numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


def advance_rows(rows: Tensor, ids: Tensor, end_ids: int) -> None:
    """See :meth:`recipes.inference.rows.Rows.advance`.

    Args:
        rows: ``[b, columns]``, contiguous: last, position, count, active, max_new in the first five columns,
            ``end_ids`` ids in the last ones.
        ids: ``[b]``.
    """
    columns = rows.shape[1]
    _advance[(len(ids),)](
        *(rows, ids, columns), end_ids=end_ids, block=triton.next_power_of_2(end_ids), num_warps=1
    )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _advance(rows, ids, columns, end_ids: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN
    row = rows + tl.program_id(0).to(tl.int64) * columns
    new = tl.load(ids + tl.program_id(0))
    active = tl.load(row + 3)
    count = tl.load(row + 2) + active
    index = tl.arange(0, block)
    ends = tl.load(row + columns - end_ids + index, mask=index < end_ids, other=-1)
    ended = (tl.max((ends == new).to(tl.int32), axis=0) > 0) | (count >= tl.load(row + 4))
    tl.store(row, tl.where(active == 1, new, tl.load(row)))
    tl.store(row + 1, tl.load(row + 1) + active)
    tl.store(row + 2, count)
    tl.store(row + 3, tl.where(ended, 0, active))
