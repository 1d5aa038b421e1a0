"""Products of a decoding step's rows and a whole weight.

One row's product reads the weight once, so what counts is how fast it is read. One thread of OpenBLAS, which
comes with numpy, reads at four fifths of what the memory gives, oneDNN at three fifths (docs/decisions.md).
Several threads of it wait for each other in the way of torch's own, so that they are not used.
"""

from __future__ import annotations

from functools import cache

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from recipes.model.products import product


def step_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[n, in]`` times ``weight`` ``[out, in]`` transposed, ``[n, out]``. It has no gradient."""
    alone = len(rows) == 1 and rows.dtype == torch.float32 and rows.device.type == "cpu"
    if not (alone and torch.get_num_threads() == 1 and _numpy_has_openblas()):
        return product(rows, weight, bias)
    out = torch.from_numpy(weight.numpy() @ rows[0].numpy()).unsqueeze(0)
    return out if bias is None else out + bias


@cache
def _numpy_has_openblas() -> bool:
    """Whether numpy's products are OpenBLAS's; from then on it has one thread, as torch has."""
    openblas = ThreadpoolController().select(internal_api="openblas")
    openblas.limit(limits=1)
    return len(openblas) > 0
