"""A run of 40 steps whose blend changes three times, and the sources that it draws from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.config.data_schema import SourceConfig
from recipes.config.phase_schema import PhaseConfig, ShareConfig
from recipes.config.schema import PretrainConfig
from tests.support.sources import SEQ_LENGTH, run_config, write_source

TOKENS = {"en": 700, "hi": 300, "code": 90}
STEP = 8 * SEQ_LENGTH  # tokens per optimizer step of run_config


def write_sources(directory: Path) -> None:
    """Every source of TOKENS, each with numbers of its own."""
    for place, (name, tokens) in enumerate(TOKENS.items()):
        write_source(directory / name, tokens, 100_000 * place, seed=tokens)


def config_of(
    train: dict[str, Any],
    phases: list[PhaseConfig] | None = None,
    directory: Path = Path("nowhere"),
    steps: int = 10,
) -> PretrainConfig:
    """Sources by weight (a number) or tokens (("tokens", n))."""
    config = run_config({}, max_steps=steps)
    sources = {}
    for name, share in train.items():
        kind = {"tokens": share[1]} if isinstance(share, tuple) else {"weight": share}
        sources[name] = SourceConfig(str(directory / name), **kind)
    return replace(config, data=replace(config.data, train=sources), phases=phases or [])


def phase(until_step: int | None = None, until_tokens: int | None = None, **shares: Any) -> PhaseConfig:
    """With a blend of its own."""
    train = {
        name: ShareConfig(tokens=share[1]) if isinstance(share, tuple) else ShareConfig(weight=share)
        for name, share in shares.items()
    }
    return PhaseConfig(until_step=until_step, until_tokens=until_tokens, train=train)


PHASES = [
    phase(10, en=1.0),
    phase(17, en=1.0, hi=1.0),
    phase(None, STEP * 30 - 5, hi=3.0, code=1.0),
    phase(en=1.0),
]
