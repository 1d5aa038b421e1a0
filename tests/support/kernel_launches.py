"""What the project's code launches on a card, and what Triton's compiler makes of it, without a card.

Models and tensors are on torch's meta device, which stores nothing, so that shapes are those of real models.
A launch ends where Triton would compile it: that is done here, for the card's capability, to machine code.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups
from recipes.inference.decode.forward import LeanDecoder
from recipes.inference.decode.shared_memory import shared_memory
from recipes.inference.decode.weights import read_weights
from recipes.model.build import build_gpt_model

META = torch.device("meta")
DECODE_KERNELS = ("attention_kernel", "norm_kernel", "product_kernel")


@dataclass(frozen=True)
class Card:
    """A GPU as its kernels see it.

    Attributes:
        shared: bytes of shared memory that one program may have (CUDA C++ programming guide, technical
            specifications per compute capability).
    """

    name: str
    capability: int
    shared: int


SMALL, HOPPER = Card("RTX 40", 89, 99 * 1024), Card("H100", 90, 227 * 1024)
CARDS = [
    Card("A100", 80, 163 * 1024),
    Card("RTX 30", 86, 99 * 1024),
    SMALL,
    HOPPER,
    Card("B200", 100, 227 * 1024),
    Card("RTX 50", 120, 99 * 1024),
]


@dataclass
class Launch:
    """A kernel with all that its machine code depends on."""

    kernel: Any
    source: Any
    options: Any
    card: Card

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    def __str__(self) -> str:
        constants = {self.kernel.arg_names[place[0]]: value for place, value in self.source.constants.items()}
        return f"{self.name} on {self.card.name}: {constants}, {self.options.num_stages} stages"


@dataclass
class Launches:
    """Those that differ, by what their machine code depends on."""

    card: Card
    found: dict[str, Launch] = field(default_factory=dict)

    def add(self, kernel: Any, signature: Any, constants: Any, options: Any, attributes: Any) -> None:
        from triton.compiler import ASTSource

        key = f"{kernel.fn.__name__} {signature} {constants} {options} {attributes}"
        if key not in self.found:
            source = ASTSource(kernel, signature, constants, attributes)
            self.found[key] = Launch(kernel, source, options, self.card)


class _Driver:
    """Says which card there is; Triton's own asks CUDA."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.utils = SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": card.shared})

    def get_current_device(self) -> int:
        return self.card.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.card.capability, 32)


@contextmanager
def launches_on(card: Card) -> Iterator[Launches]:
    """Launches on the meta device are collected as launches on the card."""
    import triton
    from triton.runtime.jit import JITFunction

    found = Launches(card)

    def not_compiled(kernel: Any, key: str, signature: Any, device: int, *rest: Any) -> None:
        """In the place of JITFunction._do_compile: a kernel that is not there is not launched."""
        constants, options, attributes, _ = rest
        found.add(kernel, signature, constants, options, attributes)

    shared_memory.cache_clear()
    here = "recipes.inference.decode"
    with (
        patch.object(JITFunction, "_do_compile", not_compiled),
        patch.object(triton.runtime.driver, "_active", _Driver(card)),
        patch(f"{here}.fused.has_triton", lambda device: True),
        patch(f"{here}.attention_kernel.starts_early", lambda device: card.capability >= 90),
        patch(f"{here}.norm_kernel.starts_early", lambda device: card.capability >= 90),
        patch(f"{here}.product_kernel.starts_early", lambda device: card.capability >= 90),
        patch("torch.cuda.device", lambda device: nullcontext()),
    ):
        yield found
    shared_memory.cache_clear()


@cache
def shipped(name: str) -> ModelConfig:
    """The description of a model of conf/model."""
    settings = ["name=x", "data.seq_length=32", "trainer.max_steps=1", "dry_run=true", f"model={name}"]
    model: ModelConfig = compose("pretrain", settings).model
    return model


def launch_steps(model: ModelConfig, dtype: torch.dtype, batches: tuple[int, ...]) -> None:
    """Decodes one token for each row, on a cache of one part and on one of the model's whole length."""
    with META, patch("torch.cuda.current_device", lambda: META):
        gpt = build_gpt_model(model, ParallelConfig(), dtype)
    weights = read_weights(gpt, model.vocab_size)
    for length in (128, model.max_position_embeddings):
        decoder = LeanDecoder(weights, max(batches), length)
        assert decoder.fused is not None
        for batch in batches:
            tokens = torch.zeros(batch, dtype=torch.long, device=META)
            decoder.step(tokens, tokens, None)


def launch_training(model: ModelConfig, dtype: torch.dtype) -> None:
    """The kernels of training, at the model's shapes."""
    from recipes.model.qkv_kernel import gradient_on_gpu, rotated_on_gpu
    from recipes.model.swiglu import GELU_CUBE, GELU_SCALE
    from recipes.model.swiglu_kernel import gated_gradient_on_gpu

    groups, width = num_query_groups(model), kv_channels(model)
    per_group = model.num_attention_heads // groups
    length, batch = 128, 2
    with META:
        mixed = torch.empty(length, batch, groups, (per_group + 2) * width, dtype=dtype)
        tables = torch.empty(2, length, width)
        query, key, value = rotated_on_gpu(mixed, tables)
        gradient_on_gpu(query, key, value, tables)
        wide = torch.empty(length, batch, 2 * model.ffn_hidden_size, dtype=dtype)
        gradient = wide[..., : model.ffn_hidden_size].contiguous()
        for gelu in (None, (GELU_SCALE, GELU_CUBE)):
            gated_gradient_on_gpu(wide, gradient, gelu)


def launch_advance() -> None:
    """The kernel that ends a step."""
    from recipes.inference.advance_kernel import advance_rows
    from recipes.inference.rows import MOST_END_IDS

    with META:
        rows = torch.empty(16, 10 + MOST_END_IDS, dtype=torch.long)
        advance_rows(rows, torch.empty(16, dtype=torch.long), MOST_END_IDS)


@dataclass(frozen=True)
class Compiled:
    """What a launch's machine code takes: of registers and stack (what they do not hold) a thread's."""

    name: str
    card: str
    registers: int
    stack: int
    shared: int


def compiled(launch: Launch) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", launch.card.capability, 32)
    made = triton.compile(launch.source, target=target, options=launch.options.__dict__)
    registers, stack = _registers_and_stack(made.asm["cubin"])
    return Compiled(launch.name, launch.card.name, registers, stack, made.metadata.shared)


def _registers_and_stack(machine_code: bytes) -> tuple[int, int]:
    """By the tool that Triton's wheel brings."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert usage is not None, said
    return int(usage[1]), int(usage[2])


def table(rows: list[Compiled]) -> list[str]:
    """Lines: of each kernel and card, over all its launches, the most registers, stack and shared memory."""
    kinds = sorted({(row.name, row.card) for row in rows}, key=lambda kind: (kind[0], kind[1]))
    lines = [f"{'kernel':<16} {'card':<8} {'kinds':>5} {'registers':>9} {'stack':>6} {'shared':>8}"]
    for name, card in kinds:
        own = [row for row in rows if (row.name, row.card) == (name, card)]
        registers, stack, shared = (
            max(getattr(row, key) for row in own) for key in ("registers", "stack", "shared")
        )
        lines.append(f"{name:<16} {card:<8} {len(own):>5} {registers:>9} {stack:>6} {shared:>8}")
    return lines
