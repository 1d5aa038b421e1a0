"""Products of a decoding step's rows and a whole weight.

A few rows' product reads the weight once, so what counts is how fast it is read. The libraries' products are
made for many rows: a thread of oneDNN reads rows of a weight of some hundred numbers at a third to a half of
what the memory gives. One dot product after the other gets nearly all of it (docs/decisions.md).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recipes.model.products import product

FEW = 4
"""So many rows."""
NEAR = 12 << 10
"""Bytes of rows that stay in the nearest cache beside a row of the weight."""
FEW_THREADS = 2
"""So many of oneDNN are hardly faster than one that reads alone, and on a busy processor they wait for each
other."""
SMALL = 1 << 20
"""Bytes of a weight that has been read before other threads would be awake."""


def step_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[n, in]`` times ``weight`` ``[out, in]`` transposed, ``[n, out]``. It has no gradient.

    A row's product is the same, bit for bit, with up to three others of so short rows.
    """
    near = rows.shape[0] <= FEW and rows.dtype == torch.float32 and rows.nbytes <= NEAR
    if not (near and rows.device.type == "cpu" and _is_read_faster_alone(weight)):
        return product(rows, weight, bias)
    # In this order a row of the weight is taken once, for all rows.
    out = torch.from_numpy(np.vecdot(weight.numpy()[:, None], rows.numpy())).t().contiguous()
    return out if bias is None else out.add_(bias)


def _is_read_faster_alone(weight: Tensor) -> bool:
    return torch.get_num_threads() <= FEW_THREADS or weight.nbytes < SMALL
