"""Pretraining: ``python -m recipes.pretrain experiment=quickstart``; ``--help`` shows examples."""

from __future__ import annotations

from recipes.config.hydra_app import run_job
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain


def run(config: PretrainConfig) -> int:
    """Checks the configuration, then trains or, with ``dry_run=true``, describes the run."""
    data_parallel_size = validate_pretrain(config)
    if config.dry_run:
        from recipes.plan.dry_run import describe_run

        print(describe_run(config, data_parallel_size))
        return 0
    from recipes.data.samples.inputs import check_inputs
    from recipes.training.run import pretrain

    check_inputs(config)
    return pretrain(config)


if __name__ == "__main__":
    run_job("pretrain", run)
