"""Pretraining: ``python -m recipes.pretrain experiment=quickstart``; ``--help`` shows examples."""

from __future__ import annotations

from pathlib import Path

from recipes.config.hydra_app import run_job
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.config.world import launched_world
from recipes.console import warn
from recipes.data.tokenizer.vocabulary import with_vocab_size


def run(config: PretrainConfig) -> int:
    """Checks the configuration, then trains or, with ``dry_run=true``, describes the run."""
    config = with_vocab_size(config)
    data_parallel_size = validate_pretrain(config)
    from recipes.plan.without_effect import without_effect

    if launched_world().rank == 0:
        for warning in without_effect(config, data_parallel_size):
            warn(warning)
    if config.dry_run:
        from recipes.evaluation.tasks import check_training_tasks
        from recipes.plan.dry_run import describe_run

        check_training_tasks(config.trainer.evaluation)
        text = describe_run(config, data_parallel_size)
        print(text)
        if config.plan.page is not None:
            from recipes.plan.dry_run_page import write_dry_run_page

            page = write_dry_run_page(config, text, Path(config.plan.page))
            print(f"\ncurves over tokens: {page}")
        return 0
    from recipes.data.samples.inputs import check_inputs
    from recipes.plan.unused_rows import unused_rows
    from recipes.training.run import pretrain

    unused = unused_rows(config, check_inputs(config).vocab_size)
    if unused and launched_world().rank == 0:
        warn(unused)
    return pretrain(config)


if __name__ == "__main__":
    run_job("pretrain", run)
