"""Sweeps (``--multirun optim.lr=1e-3,3e-3``): every job gets a place of its own.

The place is named after the swept settings alone, so the same sweep, or a larger one, finds it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

LONGEST = 150
"""Characters of a suffix; file systems allow 255 for a whole name."""


def swept_keys(arguments: Iterable[str]) -> list[str]:
    """Keys of the arguments that list several values."""
    settings = [
        argument for argument in arguments if "=" in argument and not argument.startswith(("-", "hydra."))
    ]
    overrides = OverridesParser.create().parse_overrides(settings)
    return [override.key_or_group for override in overrides if override.is_sweep_override()]


def give_own_place(job: str, cfg: DictConfig, swept: list[str]) -> None:
    """Changes where a sweep's job writes, unless the user did so, by a swept or a composed name."""
    if HydraConfig.get().mode != RunMode.MULTIRUN or not swept:
        return
    key = {"pretrain": "name", "clean": "output_dir", "generate": "output_jsonl"}.get(job)
    if key is None or key in swept or OmegaConf.is_interpolation(cfg, key):
        return
    suffix = _suffix(HydraConfig.get().overrides.task, swept)
    if job == "pretrain" and not OmegaConf.is_missing(cfg, "name"):
        cfg.name = f"{cfg.name}-{suffix}"
    if job == "clean" and not OmegaConf.is_missing(cfg, "output_dir"):
        cfg.output_dir = f"{cfg.output_dir}/{suffix}"
    if job == "generate" and cfg.prompts_jsonl is not None:
        path = Path(cfg.output_jsonl or f"{cfg.prompts_jsonl}.completions.jsonl")
        cfg.output_jsonl = str(path.with_name(f"{path.stem}-{suffix}{path.suffix}"))


def _suffix(overrides: Iterable[str], swept: list[str]) -> str:
    """``model=tiny-optim.lr=0.001``, whatever the settings' order and spelling."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    pairs = sorted(f"{each.key_or_group}={each.value()}" for each in parsed if each.key_or_group in swept)
    written = "-".join(pairs)
    name = re.sub(r"[^A-Za-z0-9._=-]+", "_", written)
    if name == written and len(name) <= LONGEST:
        return name
    # Two values must not become one name.
    return f"{name[:LONGEST]}-{hashlib.sha256(written.encode()).hexdigest()[:8]}"
