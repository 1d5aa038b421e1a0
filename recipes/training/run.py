"""One pretraining run, from checked configuration to model.nemo."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from recipes.checkpoint.save.manifest import (
    MANIFEST,
    finished_checkpoints,
    newest_whole_checkpoint,
    remove_partial,
    set_aside_newer,
)
from recipes.checkpoint.save.retention import forget_missing_best
from recipes.cli import DONE
from recipes.config.lengths import total_steps
from recipes.config.run_directory import resolved_yaml, run_directory_of
from recipes.config.schema import PretrainConfig
from recipes.config.world import World, launched_world
from recipes.console import quiet_libraries, say, warn
from recipes.counts import counted
from recipes.data.samples.inputs import chat_template_of, check_files, check_token_ids
from recipes.errors import UserError
from recipes.evaluation.tasks import check_training_tasks
from recipes.files import atomic_write, check_writable
from recipes.parallel.first_rank import close_process_group, decided_by_first_rank
from recipes.parallel.interfaces import check_interfaces
from recipes.plan.memory_check import check_memory
from recipes.plan.opening import opening
from recipes.report import write_report
from recipes.run_directory import RunDirectory, read_rollbacks
from recipes.training.changed_settings import announce_changes, refuse_another_run
from recipes.training.faults import parse_faults, refuse_those_that_never_come
from recipes.training.lacking import REPORT, lacking, validated
from recipes.training.loss_spikes import samples_left_out
from recipes.training.resume import check_resume, step_of
from recipes.training.run_lock import RunLock
from recipes.training.start import Start, find_start
from recipes.training.start_up import StartUp
from recipes.training.valid_loss import finish_validation

T = TypeVar("T")


def pretrain(config: PretrainConfig) -> int:
    """Trains, resuming if there is a checkpoint to resume from; returns the exit code."""
    start_up = StartUp()
    faults = parse_faults(os.environ)
    world = launched_world()
    directory = run_directory_of(config)
    steps = total_steps(config)
    refuse_those_that_never_come(faults, steps, world.size)
    quiet_libraries()
    lock = RunLock(directory.path)
    if world.size > 1 and world.rank == 0:
        say(f"start  {world.size} processes")
    try:
        with start_up.part("checks"):
            start = _start(config, world, directory, steps, lock)
        if start.complete:
            close_process_group(world)
            return DONE
        check_interfaces()
        if world.rank == 0:
            say("load   torch, NeMo and megatron-core")
        with start_up.part("imports"):
            from recipes.parallel.setup import set_cpu_threads

            set_cpu_threads(config.trainer.num_threads, world)
            from recipes.training.fit import fit

        return fit(config, world, directory, start, steps, start_up, faults)
    finally:
        lock.release()


def _start(config: PretrainConfig, world: World, directory: RunDirectory, steps: int, lock: RunLock) -> Start:
    """Where all ranks start. Called by all of them together."""

    def decided(decide: Callable[[], T]) -> T:
        return decided_by_first_rank(world, config.parallel.rendezvous_timeout_s, decide)

    if config.trainer.checkpoint.local.directory is None:
        # On rank 0 alone, for it reads every checkpoint file.
        return decided(lambda: _prepare(config, world, directory, steps, lock, None))
    from recipes.training.local_start import find_local

    run_id, shared = decided(lambda: _past(directory, lock))
    local = find_local(config, world, run_id, shared) if config.resume == "auto" else None
    start = decided(lambda: _prepare(config, world, directory, steps, lock, local))
    return replace(start, checkpoint=local) if start.is_local else start


def _past(directory: RunDirectory, lock: RunLock) -> tuple[str, list[int]]:
    """What local checkpoints of this run are known by, and the steps of its shared ones."""
    from recipes.training.local_start import read_id

    lock.acquire()  # Another process may be about to write what is looked for.
    return read_id(directory), [step_of(path) for path in finished_checkpoints(directory.checkpoints)]


def _prepare(
    config: PretrainConfig,
    world: World,
    directory: RunDirectory,
    steps: int,
    lock: RunLock,
    local: Path | None,
) -> Start:
    """Decides where to start; makes the run directory unless nothing is left to do.

    Args:
        local: rank 0's part of a local checkpoint that is newer than all shared ones.

    Raises:
        UserError: the run cannot continue with these settings, or not on this machine. Its files are then
            unchanged, including config.yaml, which is needed to read old checkpoints.
    """
    lock.acquire()
    if local is not None and step_of(local) >= steps:
        local = None  # A shorter run is asked for, and only shared checkpoints stand for a finished one.
    checkpoint = local or _checkpoint_to_resume(config, directory)
    done = step_of(checkpoint) if checkpoint else 0
    # A run that begins anew has met no spike.
    rollbacks = read_rollbacks(directory.rollbacks_file) if checkpoint else []
    left_out = samples_left_out(config.data.skip, rollbacks)
    consumed_tokens = check_resume(config, checkpoint, left_out) if checkpoint else 0
    lacks: list[str] = []
    if done >= steps:
        ignored = refuse_another_run(config, directory, done, steps) if checkpoint else ""
        lacks = lacking(config, directory, done)
        if lacks == [REPORT]:
            say(f"report {write_report(directory.path)}")
        if lacks in ([], [REPORT]):
            if checkpoint is not None:
                finish_validation(directory, checkpoint, config.trainer.checkpoint.keep_best)
            written = directory.nemo_file if config.save_nemo else "no model.nemo wanted"
            unused = f"; not run again for {ignored}" if ignored else ""
            say(f"{directory.path} is complete: {counted(done, 'step')}, {written}{unused}")
            return Start(checkpoint, complete=True)
    elif checkpoint is not None:
        announce_changes(config, directory, checkpoint)
    check_memory(config, world)
    for line in opening(config, launched_world().size):
        say(line)
    init_from = (
        find_start(
            config.init_from,
            full=config.init_from_state == "full",
            sha256=config.trainer.checkpoint.compares_sha256,
        )
        if config.init_from and checkpoint is None
        else None
    )
    check_token_ids(config, directory.index_cache)
    check_training_tasks(config.trainer.evaluation)
    directory.create()
    if done < steps:  # Its own file system, perhaps. The first save may be hours away.
        check_writable(directory.checkpoints / MANIFEST)
    remove_partial(directory.checkpoints)
    if checkpoint is not None:
        set_aside_newer(directory.checkpoints, checkpoint)
        if local is None:
            finish_validation(directory, checkpoint, config.trainer.checkpoint.keep_best)
        else:
            forget_missing_best(directory.checkpoints)
    else:
        directory.rollbacks_file.unlink(missing_ok=True)
    directory.record(resolved_yaml(config))
    if config.data.conversations:
        with atomic_write(directory.chat_template) as file:
            file.write(chat_template_of(check_files(config)).encode())
    shared = finished_checkpoints(directory.checkpoints)
    return Start(
        checkpoint,
        done,
        consumed_tokens,
        init_from,
        left_out,
        validated=checkpoint is not None and validated(directory, done),
        lacks=lacks,
        is_local=local is not None,
        local_id=_local_id(config, directory, checkpoint),
        shared_step=step_of(shared[-1]) if shared else None,
    )


def _local_id(config: PretrainConfig, directory: RunDirectory, checkpoint: Path | None) -> str:
    """What local checkpoints are known by from now on: as before if the run goes on."""
    if config.trainer.checkpoint.local.directory is None:
        return ""
    from recipes.training.local_start import new_id, read_id

    return (read_id(directory) if checkpoint is not None else "") or new_id(directory)


def _checkpoint_to_resume(config: PretrainConfig, directory: RunDirectory) -> Path | None:
    checkpoint = newest_whole_checkpoint(
        directory.checkpoints, warn, sha256=config.trainer.checkpoint.compares_sha256
    )
    if checkpoint is None:
        if directory.nemo_file.exists() and not directory.describes(resolved_yaml(config)):
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
