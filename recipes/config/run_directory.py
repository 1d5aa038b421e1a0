"""The directory of a configured run, and the configuration as recorded in it.

``python -m recipes.config.run_directory name=mine ...`` prints outputs/mine. It takes the arguments of
recipes.pretrain and starts nothing. docker/slurm/pretrain.sbatch calls it, because only the composed
configuration has the answer: experiments may set the keys, and values may refer to other keys.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipes.config.hydra_app import run_job, to_dataclass, writable
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError
from recipes.run_directory import RunDirectory


def run_directory_of(config: PretrainConfig) -> RunDirectory:
    """The directory of the configured run."""
    index_cache = config.data.index_cache_dir
    return RunDirectory(Path(config.output_dir) / config.name, Path(index_cache) if index_cache else None)


def resolved_yaml(config: PretrainConfig) -> str:
    """The content of config.yaml."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def config_sha256(config: PretrainConfig) -> str:
    """The SHA-256 of config.yaml."""
    return hashlib.sha256(resolved_yaml(config).encode()).hexdigest()


def recorded_config(directory: RunDirectory) -> PretrainConfig:
    """The configuration that a run recorded; keys that are newer than it have their default values.

    Raises:
        UserError: there is none, or it holds something else.
    """
    path = directory.config_file
    if not path.is_file():
        raise UserError(f"{path}: no such file, so {directory.path} is not a run's directory")
    try:
        recorded = writable(PretrainConfig)
        recorded.merge_with(OmegaConf.load(path))
        config: PretrainConfig = to_dataclass(recorded, "pretrain")
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    return config


def run(config: PretrainConfig) -> int:
    """Prints the run directory."""
    print(run_directory_of(config).path)
    return 0


if __name__ == "__main__":
    run_job("pretrain", run)
