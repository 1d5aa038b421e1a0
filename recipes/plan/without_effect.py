"""Settings that ask for something which this run, as long and as large as it is, never does. No torch here.

They are not refused: a trial of a few steps, or on a laptop, may keep the settings of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipes.config.lengths import total_steps
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.counts import counted


def without_effect(config: PretrainConfig, data_parallel_size: int) -> list[str]:
    """A warning for each: its key, its value and why it changes nothing."""
    steps = total_steps(config)
    return [
        *_phases(config, steps),
        *_loss_spikes(config, steps),
        *_between_ranks(config, data_parallel_size),
    ]


def _phases(config: PretrainConfig, steps: int) -> Iterator[str]:
    timeline = timeline_of(config)
    for number, phase in enumerate(config.phases):
        begins = timeline.first_of(number).first_step
        if begins >= steps:
            name = f"phases[{number}]" + (f"={phase.name}" if phase.name else "")
            yield f"{name}: would begin with step {begins + 1:,}, the run ends after {counted(steps, 'step')}"


def _loss_spikes(config: PretrainConfig, steps: int) -> Iterator[str]:
    guards, checkpoint = config.trainer.guards, config.trainer.checkpoint
    if guards.loss_spike_zscore is None:
        return
    if guards.loss_spike_window >= steps:
        yield (
            f"trainer.guards.loss_spike_window={guards.loss_spike_window:,}: no loss is a spike in a run of "
            f"{counted(steps, 'step')}; lower it"
        )
    elif checkpoint.every_minutes is None and (checkpoint.every_n_steps or steps) >= steps:
        yield (
            f"trainer.guards.loss_spike_zscore={guards.loss_spike_zscore:g}: without a checkpoint to go "
            "back to, a spike ends the run; set trainer.checkpoint.every_n_steps"
        )


def _between_ranks(config: PretrainConfig, data_parallel_size: int) -> Iterator[str]:
    guards, parallel = config.trainer.guards, config.parallel
    ranks = (
        data_parallel_size
        * parallel.tensor_model_parallel_size
        * parallel.pipeline_model_parallel_size
        * parallel.context_parallel_size
    )
    every, ratio = guards.compare_replicas_every_n_steps, guards.warn_of_stragglers_from
    if every is not None and data_parallel_size == 1:
        yield (
            f"trainer.guards.compare_replicas_every_n_steps={every:,}: there is only one replica of the "
            "weights"
        )
    if ratio is not None and ranks == 1:
        yield f"trainer.guards.warn_of_stragglers_from={ratio:g}: there is only one rank"
