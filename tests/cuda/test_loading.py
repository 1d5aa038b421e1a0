"""Numbers read from files onto a GPU. Into host memory: tests/checkpoint/formats/test_lazy.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.lazy import Stored, row_major
from tests.support.cuda import NEEDS_CUDA

pytestmark = NEEDS_CUDA


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loaded", [torch.bfloat16, torch.float32])
def test_pieces_of_several_threads(stored: torch.dtype, loaded: torch.dtype, tmp_path: Path) -> None:
    """Several pieces each, whole rows and columns; a buffer is filled again while the GPU still reads one."""
    numbers = torch.randn(3000, 1111, generator=torch.Generator().manual_seed(0)).to(stored)
    path = tmp_path / "numbers"
    path.write_bytes(numbers.view(torch.uint8).numpy().tobytes())
    blob = Blob(path, 0, numbers.nbytes, "numbers")
    whole = Stored(blob, stored, (3000, 1111), row_major((3000, 1111)))

    def read(columns: int) -> bool:
        torch.cuda.set_device(0)
        out = torch.empty(3000, columns, dtype=loaded, device="cuda")
        whole.box((0, 1111 - columns), (3000, columns)).read_into(out)
        return torch.equal(out.cpu(), numbers[:, 1111 - columns :].to(loaded))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, [1111, 700] * 8))
