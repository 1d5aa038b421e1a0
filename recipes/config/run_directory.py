"""Where a run will be: ``python -m recipes.config.run_directory name=mine ...`` prints outputs/mine.

It takes the arguments of recipes.pretrain and starts nothing. docker/slurm/pretrain.sbatch asks it, because
only the composed configuration knows: experiments set the keys too, and interpolations refer to others.
"""

from __future__ import annotations

from recipes.config.hydra_app import run_job
from recipes.config.schema import PretrainConfig
from recipes.training.rundir import RunDirectory


def run(config: PretrainConfig) -> int:
    """Prints the run directory."""
    print(RunDirectory(config).path)
    return 0


if __name__ == "__main__":
    run_job("pretrain", run)
