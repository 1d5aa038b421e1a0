"""Triton's interpreter on the CPU, with what Triton 3.7 leaves out of it.

It multiplies the bits of bf16 numbers as if they were integers, cuts fp32 off where it becomes bf16, and
knows no instruction in PTX: those of :mod:`recipes.inference.decode.early_start`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor


@contextmanager
def interpreting() -> Iterator[None]:
    """bf16 as on a GPU, and torch.cuda's current device on a machine without one."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def converted(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, mode)
        wide = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        return wide.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(values.shape)

    def multiplied(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (builder.cast_impl(each, tl.float32) for each in (a, b))
        return dot(builder, a, b, *rest)

    with (
        patch.object(interpreter, "_convert_float", converted),
        patch.object(interpreter.InterpreterBuilder, "create_dot", multiplied),
        patch("torch.cuda.device", lambda device: nullcontext()),
    ):
        yield


@dataclass
class _Program:
    """What one program of a kernel has done."""

    waited: bool = False
    asked_for: set[tuple[int, int]] = field(default_factory=set)


class EarlyPrograms:
    """Programs that start while the kernel before theirs still runs.

    Such a program waits, and touches nothing before that but tensors which were there already: it reads them,
    or asks for pieces of them. What it reads of others might not be written yet, and what it writes might
    still be read.
    """

    def __init__(self, older: Sequence[Tensor]) -> None:
        self.ranges = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in older]
        self.programs: list[_Program] = []

    def assert_wait(self) -> None:
        assert self.programs and all(program.waited for program in self.programs), "some never wait"

    @property
    def asked_for(self) -> int:
        """How many bytes, together, in pieces that differ."""
        pieces = {piece for program in self.programs for piece in program.asked_for}
        return sum(size for _, size in pieces)

    def begins(self) -> None:
        self.programs.append(_Program())

    def waits(self) -> None:
        assert not self.programs[-1].waited
        self.programs[-1].waited = True

    def lets_the_next_begin(self) -> None:
        assert self.programs[-1].waited, "the kernel after may start before the one before has ended"

    def asks_for(self, starts: Any, sizes: Any) -> None:
        starts, sizes = np.broadcast_arrays(starts, sizes)
        for start, size in zip(starts.ravel().tolist(), sizes.ravel().tolist(), strict=True):
            if size:
                assert start % 16 == 0 and size % 16 == 0 and size > 0, (start, size)
                assert self._is_older(start, start + size), "asks for what is not there"
                self.programs[-1].asked_for.add((start, size))

    def reads(self, addresses: Any, mask: Any) -> None:
        if self.programs[-1].waited:
            return
        addresses, mask = np.broadcast_arrays(addresses, mask)
        for address in np.unique(addresses[mask]).tolist():
            assert self._is_older(address, address + 1), "reads before it waits"

    def writes(self) -> None:
        assert self.programs[-1].waited, "writes before it waits"

    def _is_older(self, start: int, end: int) -> bool:
        return any(first <= start and end <= last for first, last in self.ranges)


@contextmanager
def starting_early(older: Sequence[Tensor]) -> Iterator[EarlyPrograms]:
    """Kernels as for a Hopper GPU. ``older``: what was there before the kernel before theirs began."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    watched = EarlyPrograms(older)
    place, read, write = (
        getattr(InterpreterBuilder, name)
        for name in ("set_grid_idx", "create_masked_load", "create_masked_store")
    )

    def begins(builder: Any, *index: Any) -> None:
        watched.begins()
        place(builder, *index)

    def reads(builder: Any, addresses: Any, mask: Any, *rest: Any) -> Any:
        watched.reads(addresses.data, mask.data)
        return read(builder, addresses, mask, *rest)

    def writes(builder: Any, *arguments: Any) -> Any:
        watched.writes()
        return write(builder, *arguments)

    def prefetches(builder: Any, assembly: str, _: str, arguments: list[Any], *__: Any) -> Any:
        assert "cp.async.bulk.prefetch" in assembly
        starts, sizes = (argument.data for argument in arguments)
        watched.asks_for(starts, sizes)
        return SimpleNamespace(get_result=lambda number: builder.get_int32(0))

    here = "recipes.inference.decode"
    with (
        patch.object(InterpreterBuilder, "set_grid_idx", begins),
        patch.object(InterpreterBuilder, "create_masked_load", reads),
        patch.object(InterpreterBuilder, "create_masked_store", writes),
        patch.object(InterpreterBuilder, "create_inline_asm", prefetches, create=True),
        patch.object(tl.extra.cuda, "gdc_wait", watched.waits),
        patch.object(tl.extra.cuda, "gdc_launch_dependents", watched.lets_the_next_begin),
        patch(f"{here}.attention_kernel.starts_early", lambda device: True),
        patch(f"{here}.norm_kernel.starts_early", lambda device: True),
        patch(f"{here}.product_kernel.starts_early", lambda device: True),
    ):
        yield watched
    watched.assert_wait()
