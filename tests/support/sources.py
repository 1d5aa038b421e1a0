"""Tokenized sources whose every token is another number, so that a test sees which were read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.config.data_schema import DataConfig, SourceConfig
from recipes.config.schema import OptimConfig, PretrainConfig, TrainerConfig
from recipes.data.samples.indexed import IndexedWriter
from recipes.families.model_config import ModelConfig

if TYPE_CHECKING:
    from recipes.data.samples.source import BlendSource, SourceText

SEQ_LENGTH = 8
TOKENIZER: Any = SimpleNamespace(eos_id=-7, sha256="0" * 64)


def write_source(prefix: Path, tokens: int, first: int = 0, seed: int = 0) -> Path:
    """Documents of 1 to 20 tokens that count up from ``first``."""
    lengths: list[int] = []
    generator = np.random.default_rng(seed)
    while sum(lengths) < tokens:
        lengths.append(min(int(generator.integers(1, 21)), tokens - sum(lengths)))
    with Path(f"{prefix}.bin").open("wb") as bin_file, Path(f"{prefix}.idx").open("w+b") as idx_file:
        writer = IndexedWriter(bin_file, idx_file, "int32")
        writer.add(np.arange(first, first + tokens), np.array(lengths, dtype=np.int32))
        writer.finish()
    return prefix


def source_text(path: Path | list[str], cache_dir: Path, seed: int = 1, **options: Any) -> SourceText:
    from recipes.data.samples.source import SourceText

    path = path if isinstance(path, list) else str(path)
    options = {"eod_mask_loss": False} | options
    return SourceText(path, TOKENIZER, seed=seed, cache_dir=cache_dir, **options)


def source(
    path: Path | list[str],
    cache_dir: Path,
    seed: int = 1,
    parts: Sequence[Sequence[int]] = ((0, SEQ_LENGTH),),
    **options: Any,
) -> BlendSource:
    """Of samples of one length, unless ``parts`` says otherwise."""
    from recipes.data.samples.source import BlendSource

    return BlendSource(source_text(path, cache_dir, seed, **options), parts)


def run_config(train: dict[str, tuple[Path, float]], **trainer: Any) -> PretrainConfig:
    return PretrainConfig(
        name="x",
        seed=1,
        model=ModelConfig(),
        data=DataConfig(
            train={name: SourceConfig(str(path), weight) for name, (path, weight) in train.items()},
            seq_length=SEQ_LENGTH,
        ),
        optim=OptimConfig(lr=1e-3),
        trainer=TrainerConfig(**{"max_steps": 10, "micro_batch_size": 2, "global_batch_size": 8, **trainer}),
    )


def per_epoch(source: BlendSource, seq_length: int = SEQ_LENGTH) -> int:
    """Whole samples of an epoch."""
    return (source.text.tokens - 1) // seq_length
