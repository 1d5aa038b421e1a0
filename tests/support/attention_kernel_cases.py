"""The kernel of a step's attention against float64, for a GPU or Triton's interpreter on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

EPS = 1e-6
ROWS = 12
"""Of the value embeddings and of the tables of rotations' first part; positions go beyond."""


@dataclass(frozen=True)
class Case:
    """A layer's shapes and what it has beside attention itself."""

    width: int = 64
    groups: int = 2
    per_group: int = 3
    capacity: int = 300
    positions: tuple[int, ...] = (0, 5, 256, 299)
    in_parts: int = 1
    rotated: int = 0
    norm: bool = False
    gain: bool = False
    embedded: bool = False


LLAMA = Case(rotated=64, in_parts=4)
CASES = {
    "plain": Case(),
    "llama": LLAMA,
    "one_part": replace(LLAMA, capacity=200, positions=(0, 1, 199)),
    "ring": replace(LLAMA, capacity=70, positions=(0, 69, 70, 71, 500)),
    "ring_in_parts": replace(LLAMA, capacity=300, positions=(299, 300, 431, 3000)),
    "partly_rotated": replace(LLAMA, rotated=32, per_group=1, in_parts=2),
    "norms": replace(LLAMA, norm=True),
    "gains": replace(LLAMA, norm=True, gain=True, rotated=32),
    "gains_alone": Case(norm=True, gain=True),
    "value_embeddings": replace(LLAMA, norm=True, embedded=True, groups=3, per_group=2),
    "many_queries": replace(LLAMA, groups=1, per_group=20),
    "wide": replace(LLAMA, width=256, rotated=256, groups=1, per_group=4, norm=True, gain=True),
    "odd_width": Case(width=72, rotated=36, in_parts=2, norm=True, gain=True),
    "narrow": Case(width=8, rotated=8, in_parts=2),
}


@dataclass(frozen=True)
class Inputs:
    qkv: Tensor
    positions: Tensor
    keys: Tensor
    values: Tensor
    rotation: tuple[Tensor, Tensor] | None
    gains: tuple[Tensor, Tensor] | None
    embedding: tuple[Tensor, Tensor, Tensor] | None

    def older(self) -> list[Tensor]:
        """What was there before the kernel that made qkv began."""
        return [self.positions, self.keys, self.values, *(self.rotation or ()), *(self.gains or ())]


def inputs_of(case: Case, dtype: torch.dtype, device: str) -> Inputs:
    """The cache holds each row's tokens before its position, and large numbers where nothing was written."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch, group_heads = len(case.positions), case.per_group + 2
    qkv = normal(case.in_parts, batch, case.groups * group_heads * case.width) / case.in_parts**0.5
    cache = normal(2, batch, case.groups, case.capacity, case.width)
    for row, position in enumerate(case.positions):
        cache[:, row, :, position:] = 1e4
    cache = cache.to(device, dtype)
    rotation = embedding = None
    if case.rotated:
        angles = torch.rand(max(case.positions) + 1, case.rotated // 2, generator=generator) * 6
        pair = angles.cos().repeat(1, 2), torch.cat((-angles.sin(), angles.sin()), dim=-1)
        rotation = pair[0].to(device), pair[1].to(device)
    if case.embedded:
        tokens = torch.randint(ROWS, (batch,), generator=generator)
        table, gates = normal(ROWS, case.groups * case.width), normal(batch, case.groups)
        embedding = tokens.to(device), table.to(device, dtype), gates.to(device, dtype)
    gains = (1 + 0.1 * normal(2, case.width)).to(device, dtype) if case.gain else None
    return Inputs(
        qkv=qkv.to(device) if case.in_parts > 1 else qkv.to(device, dtype),
        positions=torch.tensor(case.positions, device=device),
        keys=cache[0].contiguous(),
        values=cache[1].contiguous(),
        rotation=rotation,
        gains=None if gains is None else (gains[0], gains[1]),
        embedding=embedding,
    )


def attended(case: Case, given: Inputs) -> Tensor:
    """By the kernel, which writes into the cache."""
    from recipes.inference.decode.attention_kernel import attend

    return attend(
        *(given.qkv, given.positions, given.keys, given.values),
        rotation=given.rotation,
        norms=(given.gains or (None, None)) if case.norm else None,
        eps=EPS,
        value_embedding=given.embedding,
        scale=case.width**-0.5,
        longest=max(case.positions) + 1,
    )


def attention_error(case: Case, dtype: torch.dtype, device: str) -> float:
    """The largest difference in the output and in the new keys and values; results are about 1."""
    given = inputs_of(case, dtype, device)
    expected = _exact(case, given)
    keys, values = given.keys.clone(), given.values.clone()
    found = attended(case, given)
    assert found.dtype == dtype
    errors = [_difference(found, expected[0])]
    rows = torch.arange(len(case.positions), device=device)
    place = given.positions % case.capacity
    for now, before, new in ((given.keys, keys, expected[1]), (given.values, values, expected[2])):
        errors.append(_difference(now[rows, :, place], new))
        before[rows, :, place] = now[rows, :, place]
        assert torch.equal(now, before), "the cache changed in other places too"
    return max(errors)


def _difference(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    return float((found.double() - exact).abs().max())


def _exact(case: Case, given: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The output ``[b, heads * d]`` and the new keys and values ``[b, groups, d]``."""
    batch = len(case.positions)
    heads = given.qkv.double().sum(0).view(batch, case.groups, case.per_group + 2, case.width)
    query, key, value = heads[:, :, :-2], heads[:, :, -2:-1], heads[:, :, -1].clone()
    if case.norm:
        query_gain, key_gain = given.gains or (1.0, 1.0)
        query = query * (query.square().mean(-1, keepdim=True) + EPS).rsqrt() * query_gain
        key = key * (key.square().mean(-1, keepdim=True) + EPS).rsqrt() * key_gain
    if given.rotation is not None:
        cosine, sine = (table.double()[given.positions, None, None] for table in given.rotation)
        query, key = (_rotated(part, cosine, sine) for part in (query, key))
    key = key.squeeze(2)
    if given.embedding is not None:
        tokens, table, gates = given.embedding
        rows = table.double()[tokens].view(batch, case.groups, case.width)
        value += 2 * gates.double().sigmoid()[..., None] * rows
    out = torch.empty_like(query)
    for row, position in enumerate(case.positions):
        seen = min(position + 1, case.capacity)
        keys, values = (cache[row, :, :seen].double() for cache in (given.keys, given.values))
        keys[:, position % case.capacity], values[:, position % case.capacity] = key[row], value[row]
        shares = (query[row] @ keys.transpose(1, 2) * case.width**-0.5).softmax(-1)
        out[row] = shares @ values
    return out.reshape(batch, -1), key, value


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    width = cosine.shape[-1]
    turned = heads[..., :width] * cosine + heads[..., :width].roll(width // 2, -1) * sine
    return torch.cat((turned, heads[..., width:]), dim=-1)
