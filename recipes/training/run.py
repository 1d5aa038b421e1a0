"""One pretraining run, from checked configuration to model.nemo."""

from __future__ import annotations

from pathlib import Path

from recipes.checkpoint.archive import read_member
from recipes.checkpoint.manifest import newest_whole_checkpoint, remove_partial, set_aside_newer
from recipes.config.schema import PretrainConfig
from recipes.config.world import launched_world
from recipes.errors import UserError
from recipes.training.console import say, warn
from recipes.training.quiet import quiet_libraries
from recipes.training.rundir import RunDirectory, read_metrics

DONE, STOPPED_BY_SIGNAL, STOPPED_BY_GUARD = 0, 3, 4


def total_steps(config: PretrainConfig) -> int:
    """Optimizer steps of the whole run: what max_steps or max_tokens reaches first."""
    tokens_per_step = config.trainer.global_batch_size * config.data.seq_length
    limits = []
    if config.trainer.max_steps is not None:
        limits.append(config.trainer.max_steps)
    if config.trainer.max_tokens is not None:
        limits.append(-(-config.trainer.max_tokens // tokens_per_step))
    return min(limits)


def pretrain(config: PretrainConfig) -> int:
    """Trains, resuming if there is something to resume from; returns the exit code."""
    world = launched_world()
    directory = RunDirectory(config)
    checkpoint = _checkpoint_to_resume(config, directory)
    steps = total_steps(config)
    done = _step_of(checkpoint) if checkpoint else 0
    if done >= steps and _has_nemo_of(config, directory, done):
        if world.rank == 0:
            written = directory.nemo_file if config.save_nemo else "no model.nemo wanted"
            say(f"{directory.path} is complete: {done} steps, {written}")
        return DONE
    if world.rank == 0:
        directory.create(config)
        remove_partial(directory.checkpoints)
        if checkpoint is not None:
            set_aside_newer(directory.checkpoints, checkpoint)
    quiet_libraries()
    from recipes.parallel.setup import set_cpu_threads

    set_cpu_threads(config.trainer.num_threads, world)
    from recipes.training.fit import fit

    return fit(config, world, directory, checkpoint, steps)


def _checkpoint_to_resume(config: PretrainConfig, directory: RunDirectory) -> Path | None:
    checkpoint = newest_whole_checkpoint(directory.checkpoints, warn)
    if checkpoint is None:
        if directory.nemo_file.exists() and not directory.describes(config):
            raise UserError(
                f"name={config.name}: {directory.nemo_file} exists; choose another name or move it away"
            )
        return None
    if config.resume == "never":
        raise UserError(
            f"resume=never: {directory.path} already holds {checkpoint.name}; "
            "choose another name, or resume=auto to continue it"
        )
    return checkpoint


def _has_nemo_of(config: PretrainConfig, directory: RunDirectory, step: int) -> bool:
    """Whether model.nemo holds these weights, not those of an earlier end (max_time, a smaller max_steps)."""
    if not config.save_nemo:
        return step > 0
    if not directory.nemo_file.exists():
        return False
    import yaml

    try:
        written = yaml.safe_load(read_member(directory.nemo_file, "model_config.yaml"))
        return bool(written["recipes"].get("step", step) == step)
    except (UserError, yaml.YAMLError, KeyError, TypeError):
        return False


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def resumed_steps(metrics_file: Path) -> list[int]:
    """Steps at which the run was resumed."""
    return [record["step"] for record in read_metrics(metrics_file) if record.get("event") == "resumed"]
