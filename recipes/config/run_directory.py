"""The directory of a configured run, and the configuration as recorded in it.

``python -m recipes.config.run_directory name=mine ...`` prints outputs/mine. It takes the arguments of
recipes.pretrain and starts nothing. docker/slurm/pretrain.sbatch calls it, because only the composed
configuration has the answer: experiments may set the keys, and values may refer to other keys.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipes.config.hydra_app import run_job, to_dataclass, writable
from recipes.config.schema import PretrainConfig
from recipes.console import warn_once
from recipes.errors import UserError
from recipes.run_directory import RunDirectory


def run_directory_of(config: PretrainConfig) -> RunDirectory:
    """The directory of the configured run."""
    index_cache = config.data.index_cache_dir
    return RunDirectory(Path(config.output_dir) / config.name, Path(index_cache) if index_cache else None)


def resolved_yaml(config: PretrainConfig) -> str:
    """The content of config.yaml."""
    # From plain values: nodes that know the schema's types take three times as long to make.
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def config_sha256(config: PretrainConfig) -> str:
    """The SHA-256 of config.yaml."""
    return hashlib.sha256(resolved_yaml(config).encode()).hexdigest()


def recorded_config(directory: RunDirectory) -> PretrainConfig:
    """The configuration that a run recorded.

    Keys that are newer than it have their default values; those that there are no longer are left out, with a
    warning: a run is not lost because the project goes on.

    Raises:
        UserError: there is none, or it holds something else.
    """
    path = directory.config_file
    if not path.is_file():
        raise UserError(f"{path}: no such file, so {directory.path} is not a run's directory")
    try:
        recorded, found = writable(PretrainConfig), yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise UserError(f"{path}: holds no settings")
        for key in _drop_unknown(recorded, found):
            warn_once(f"{path}: {key} is no setting any more; it is left out")
        recorded.merge_with(found)
        config: PretrainConfig = to_dataclass(recorded, "pretrain")
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    return config


def _drop_unknown(known: DictConfig, found: dict[Any, Any], prefix: str = "") -> list[str]:
    """Removes the keys that the schema does not have; their names. Dictionaries may have any."""
    dropped, names = [], [*known.keys()]  # Not `in`, for which keys without a value are not there.
    for key in [*found]:
        if key not in names:
            dropped.append(f"{prefix}{key}")
            del found[key]
            continue
        inner, value = known._get_node(key), found[key]
        if isinstance(inner, DictConfig) and isinstance(value, dict) and _is_a_section(inner):
            dropped += _drop_unknown(inner, value, f"{prefix}{key}.")
    return dropped


def _is_a_section(node: DictConfig) -> bool:
    return dataclasses.is_dataclass(OmegaConf.get_type(node))


def run(config: PretrainConfig) -> int:
    """Prints the run directory."""
    print(run_directory_of(config).path)
    return 0


if __name__ == "__main__":
    run_job("pretrain", run)
