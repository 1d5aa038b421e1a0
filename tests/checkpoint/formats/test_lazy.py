"""Numbers read into tensors of any type and stride, whole or piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.lazy import Stored, row_major
from recipes.errors import UserError

PIECES = {"one byte": 1, "two rows": 112, "everything": 1 << 20}


@pytest.fixture
def numbers() -> Tensor:
    return torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


@pytest.fixture
def stored(numbers: Tensor, tmp_path: Path) -> Stored:
    content = numbers.view(torch.uint8).numpy().tobytes()
    path = tmp_path / "numbers"
    path.write_bytes(content)
    blob = Blob(path, 0, len(content), "numbers")
    return Stored(
        blob, numbers.dtype, tuple(numbers.shape), row_major(numbers.shape), crc32=zlib.crc32(content)
    )


@pytest.fixture(params=PIECES)
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.checkpoint.formats.lazy.PIECE", PIECES[request.param])


VIEWS: dict[str, tuple[Callable[[Stored], Stored], Callable[[Tensor], Tensor]]] = {
    "whole": (lambda stored: stored, lambda numbers: numbers),
    "rows": (lambda stored: stored.box((1, 0, 0), (2, 5, 7)), lambda numbers: numbers[1:]),
    "columns": (lambda stored: stored.box((0, 1, 2), (3, 3, 4)), lambda numbers: numbers[:, 1:4, 2:6]),
    "one row": (lambda stored: stored.box((2, 0, 0), (1, 5, 7)), lambda numbers: numbers[2:]),
    "transposed": (
        lambda stored: replace(stored, shape=(7, 5, 3), strides=(1, 7, 35)),
        lambda numbers: numbers.T,
    ),
    "nothing": (lambda stored: stored.box((0, 0, 0), (3, 0, 7)), lambda numbers: numbers[:, :0]),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:The use of `x.T`")
def test_pieces_make_up_the_whole(
    view: str, dtype: torch.dtype, stored: Stored, numbers: Tensor, piece: None
) -> None:
    of_stored, of_numbers = VIEWS[view]
    expected = of_numbers(numbers).to(dtype)
    out = torch.full((*expected.shape, 2), float("nan"), dtype=dtype)
    of_stored(stored).read_into(out[..., 0])
    assert torch.equal(out[..., 0], expected) and out[..., 1].isnan().all()


@pytest.mark.parametrize("view", ["whole", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checksums_are_of_all_pieces(view: str, dtype: torch.dtype, stored: Stored, piece: None) -> None:
    viewed = VIEWS[view][0](stored)
    viewed.read_into(torch.empty(viewed.shape, dtype=dtype), verify=True)
    damaged = replace(viewed, crc32=viewed.crc32 ^ 1)  # type: ignore[operator]
    damaged.read_into(torch.empty(viewed.shape, dtype=dtype))
    with pytest.raises(UserError, match="does not have the recorded CRC-32"):
        damaged.read_into(torch.empty(viewed.shape, dtype=dtype), verify=True)


def test_a_file_that_is_cut_off_under_a_reader(stored: Stored, piece: None) -> None:
    assert stored.blob is not None
    stored.blob.path.write_bytes(bytes(100))
    with pytest.raises(UserError, match="numbers is cut off"):
        stored.read_into(torch.empty(stored.shape))
