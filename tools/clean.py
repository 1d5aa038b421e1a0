"""Cleaning: ``python -m tools.clean data=real_text output_dir=data/clean``; ``--help`` shows examples."""

from __future__ import annotations

from recipes.config.clean_schema import CleanConfig
from recipes.config.hydra_app import run_job
from recipes.data.clean.validate import validate_clean


def run(config: CleanConfig) -> int:
    """Checks the configuration, then cleans or, with ``dry_run=true``, prints what would be done."""
    validate_clean(config)
    from recipes.data.clean.plan import describe, make_plan

    plan = make_plan(config)
    if config.dry_run:
        print(describe(config, plan))
        return 0
    from recipes.data.clean.job import clean

    clean(config, plan)
    return 0


if __name__ == "__main__":
    run_job("clean", run)
