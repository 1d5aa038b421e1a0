"""Refuses impossible settings before anything heavy is imported.

Every message names the key, its value and the fix.
"""

from __future__ import annotations

import re
from pathlib import Path

from recipes.checks import not_negative, of_a_machine, one_of, positive, refuse, refuse_ignored
from recipes.config.cuda_graph import obstacle
from recipes.config.devices import DEVICES
from recipes.config.foreign_keys import FOREIGN_VALUES
from recipes.config.schema import (
    DataConfig,
    PlanConfig,
    PretrainConfig,
    SamplesConfig,
    TrainerConfig,
)
from recipes.config.separate_documents import validate_conversations, validate_separate_documents
from recipes.config.trainer_schema import (
    CheckpointConfig,
    EmaConfig,
    GuardsConfig,
    LocalCheckpointConfig,
)
from recipes.config.validate_jobs import PRECISIONS, validate_evaluation, validate_inference
from recipes.config.validate_logger import validate_logger
from recipes.config.validate_model import validate_model, validate_positions
from recipes.config.validate_optim import validate_optim
from recipes.config.validate_parallel import validate_parallel
from recipes.config.validate_phases import validate_length, validate_phases, validate_schedules
from recipes.config.validate_precision import validate_precision
from recipes.errors import UserError


def validate_pretrain(config: PretrainConfig) -> int:
    """Checks the settings against each other; returns the data-parallel size.

    Raises:
        UserError: with the key, the value and the fix.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,-]*", config.name):
        refuse("name", repr(config.name), "use letters, digits, '.', '_' and '-': it names a directory")
    one_of("resume", config.resume, ("auto", "never"))
    validate_init(config)
    if not 0 <= config.seed < 2**31:
        refuse("seed", config.seed, "must lie between 0 and 2,147,483,647")
    validate_model(config.model)
    validate_positions(config.model)
    data_parallel_size = validate_parallel(config.parallel, config.model, check_launcher=not config.dry_run)
    validate_trainer(config.trainer, data_parallel_size)
    validate_checkpoint(config.trainer.checkpoint, config.trainer.val_check_interval, list(config.data.valid))
    validate_samples(config.trainer.samples, config.parallel.context_parallel_size)
    validate_evaluation(config.trainer.evaluation, config.parallel.context_parallel_size)
    validate_guards(config.trainer.guards)
    validate_logger(config)
    validate_ema(config.trainer.ema)
    validate_data(config.data)
    validate_plan(config.plan, config.dry_run)
    validate_optim(config.optim, config.model, config.parallel)
    validate_phases(config, data_parallel_size)
    validate_schedules(config)
    validate_length("data.seq_length", config.data.seq_length, config)
    if config.trainer.compile not in (True, False, "auto"):
        refuse("trainer.compile", config.trainer.compile, "must be true, false or auto")
    if config.trainer.compile is True and config.model.num_moe_experts is not None:
        refuse("trainer.compile", True, "megatron-core's experts cannot be compiled; leave it auto")
    _validate_cuda_graph(config)
    validate_precision(config)
    validate_separate_documents(config)
    return data_parallel_size


def _validate_cuda_graph(config: PretrainConfig) -> None:
    if config.trainer.cuda_graph not in (True, False, "auto"):
        refuse("trainer.cuda_graph", config.trainer.cuda_graph, "must be true, false or auto")
    if config.trainer.cuda_graph is True and (reason := obstacle(config)) is not None:
        refuse("trainer.cuda_graph", True, f"not possible with {reason}; leave it auto")


def validate_trainer(trainer: TrainerConfig, data_parallel_size: int) -> None:
    """Checks batches, lengths and intervals."""
    one_of("trainer.precision", trainer.precision, (*PRECISIONS, "fp16", "fp8"), FOREIGN_VALUES)
    positive("trainer.micro_batch_size", trainer.micro_batch_size)
    positive("trainer.global_batch_size", trainer.global_batch_size)
    chunk = trainer.micro_batch_size * data_parallel_size
    if trainer.global_batch_size % chunk:
        refuse(
            "trainer.global_batch_size",
            trainer.global_batch_size,
            f"must be a multiple of micro_batch_size x data-parallel size = "
            f"{trainer.micro_batch_size} x {data_parallel_size} = {chunk:,}",
        )
    if trainer.max_steps is None and trainer.max_tokens is None:
        raise UserError("trainer.max_steps=null: set trainer.max_steps or trainer.max_tokens")
    if trainer.max_steps is not None and trainer.max_steps < 0:
        refuse("trainer.max_steps", trainer.max_steps, "must not be negative; 0 writes the untrained model")
    for key in (
        "max_tokens",
        "log_every_n_steps",
        "log_details_every_n_steps",
        "val_check_interval",
        "limit_val_batches",
        "peak_tflops",
    ):
        value = getattr(trainer, key)
        if value is not None:
            positive(f"trainer.{key}", value)
    every, details = trainer.log_every_n_steps, trainer.log_details_every_n_steps
    if details is not None and details % every:
        refuse(
            "trainer.log_details_every_n_steps",
            details,
            f"must be a multiple of trainer.log_every_n_steps={every:,}",
        )
    if trainer.num_threads is not None:
        of_a_machine("trainer.num_threads", trainer.num_threads)
    if trainer.max_time is not None:
        parse_duration(trainer.max_time)


def validate_checkpoint(checkpoint: CheckpointConfig, valid_every: int | None, held_out: list[str]) -> None:
    """Checks when checkpoints are written and which of them are kept."""
    key, every = "trainer.checkpoint", checkpoint.every_n_steps
    if every is not None:
        positive(f"{key}.every_n_steps", every)
    if checkpoint.every_minutes is not None:
        positive(f"{key}.every_minutes", checkpoint.every_minutes)
    positive(f"{key}.keep_last", checkpoint.keep_last)
    if checkpoint.async_save not in (True, False, "auto"):
        refuse(f"{key}.async_save", checkpoint.async_save, "must be true, false or auto")
    one_of(f"{key}.verify", checkpoint.verify, ("start", "background", "size"))
    not_negative(f"{key}.keep_best", checkpoint.keep_best)
    if every is None:
        if checkpoint.keep_every_n_steps is not None:
            refuse(
                f"{key}.keep_every_n_steps",
                checkpoint.keep_every_n_steps,
                f"would be ignored: set {key}.every_n_steps",
            )
        if checkpoint.async_save is True and checkpoint.every_minutes is None:
            refuse(f"{key}.async_save", True, f"would be ignored: set {key}.every_n_steps or every_minutes")
    elif checkpoint.keep_every_n_steps is not None:
        positive(f"{key}.keep_every_n_steps", checkpoint.keep_every_n_steps)
        if checkpoint.keep_every_n_steps % every:
            refuse(
                f"{key}.keep_every_n_steps",
                checkpoint.keep_every_n_steps,
                f"must be a multiple of {key}.every_n_steps={every}",
            )
    _validate_local(checkpoint.local)
    if checkpoint.keep_best:
        _validate_keep_best(checkpoint.keep_best, every, valid_every, held_out)


def _validate_local(local: LocalCheckpointConfig) -> None:
    key = "trainer.checkpoint.local"
    for name in ("every_n_steps", "every_minutes"):
        value = getattr(local, name)
        if value is not None:
            positive(f"{key}.{name}", value)
            if local.directory is None:
                refuse(f"{key}.{name}", value, f"would be ignored: set {key}.directory")
    if local.directory is not None and local.every_n_steps is None and local.every_minutes is None:
        refuse(f"{key}.directory", local.directory, f"nothing would be written: set {key}.every_minutes")


def _validate_keep_best(count: int, every: int | None, valid_every: int | None, held_out: list[str]) -> None:
    """The best are chosen among checkpoints of validated steps: both intervals must meet."""
    key = "trainer.checkpoint.keep_best"
    if not held_out:
        refuse(key, count, "would be ignored: data.valid names no held-out set")
    if every is None:
        refuse(key, count, "would be ignored: set trainer.checkpoint.every_n_steps")
    if valid_every is None:
        refuse(key, count, "would be ignored: set trainer.val_check_interval")
    if every % valid_every and valid_every % every:
        refuse(
            key,
            count,
            f"no checkpoint would be validated regularly: make trainer.val_check_interval={valid_every} a "
            f"multiple or a divisor of trainer.checkpoint.every_n_steps={every}",
        )


def validate_guards(guards: GuardsConfig) -> None:
    """Checks when a run gives up."""
    for key in ("max_skipped_steps", "loss_spike_skip_steps", "max_rollbacks"):
        positive(f"trainer.guards.{key}", getattr(guards, key))
    if guards.loss_spike_window < 2:
        refuse("trainer.guards.loss_spike_window", guards.loss_spike_window, "must be at least 2")
    if guards.loss_spike_zscore is None:
        for key in ("loss_spike_window", "loss_spike_skip_steps", "max_rollbacks"):
            value = getattr(guards, key)
            if value != getattr(GuardsConfig(), key):
                refuse(
                    f"trainer.guards.{key}", value, "would be ignored: set trainer.guards.loss_spike_zscore"
                )
    for key in (
        "hang_timeout_s",
        "compare_replicas_every_n_steps",
        "warn_of_stragglers_from",
        "loss_spike_zscore",
    ):
        value = getattr(guards, key)
        if value is not None:
            positive(f"trainer.guards.{key}", value)
    ratio = guards.warn_of_stragglers_from
    if ratio is not None and ratio <= 1:
        refuse("trainer.guards.warn_of_stragglers_from", ratio, "must be above 1, the median rank; 1.3 say")


def validate_ema(ema: EmaConfig) -> None:
    """Checks the average of the weights."""
    positive("trainer.ema.every_n_steps", ema.every_n_steps)
    if ema.decay is None:
        for key, value, default in (
            ("every_n_steps", ema.every_n_steps, 1),
            ("validate", ema.validate, True),
        ):
            if value != default:
                refuse(f"trainer.ema.{key}", value, "would be ignored: set trainer.ema.decay too")
    elif not 0 < ema.decay < 1:
        refuse("trainer.ema.decay", ema.decay, "must lie between 0 and 1, 0.999 for example")


def validate_samples(samples: SamplesConfig, context_parallel_size: int) -> None:
    """Checks the completions that a run makes during training."""
    key = "trainer.samples"
    if samples.every_n_steps is None:
        if samples.prompts:
            refuse(f"{key}.prompts", list(samples.prompts), f"would be ignored: set {key}.every_n_steps")
        refuse_ignored(f"{key}.inference", samples.inference, f"set {key}.every_n_steps")
        return
    positive(f"{key}.every_n_steps", samples.every_n_steps)
    if not samples.prompts or not all(samples.prompts):
        refuse(f"{key}.prompts", list(samples.prompts), "give at least one, and none that is empty")
    if context_parallel_size > 1:
        refuse(
            f"{key}.every_n_steps",
            samples.every_n_steps,
            f"does not go with parallel.context_parallel_size={context_parallel_size}, which splits every "
            "sequence; set it to null and complete from the checkpoints",
        )
    validate_inference(samples.inference, f"{key}.inference")
    if samples.inference.compute_logprob:
        refuse(f"{key}.inference.compute_logprob", True, "scores prompts; samples continue them")


def validate_init(config: PretrainConfig) -> None:
    """Checks what the run starts from."""
    one_of("init_from_state", config.init_from_state, ("weights", "full"))
    if config.init_from is None:
        if config.init_from_state == "full":
            refuse("init_from_state", "full", "would be ignored: init_from is not set")
        return
    path = Path(config.init_from)
    if not path.exists() and not config.dry_run:
        refuse("init_from", path, "does not exist; name a run directory, one of its checkpoints, or a .nemo")
    if config.init_from_state == "full" and path.suffix == ".nemo":
        refuse("init_from_state", "full", "a .nemo file holds weights only; name a run directory")


def parse_duration(text: str) -> float:
    """Seconds of ``DD:HH:MM:SS`` or ``HH:MM:SS``."""
    match = re.fullmatch(r"(?:(\d+):)?(\d+):(\d{1,2}):(\d{1,2})", text)
    if match is None:
        refuse("trainer.max_time", repr(text), "write DD:HH:MM:SS or HH:MM:SS, for example 00:15:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if not days * 86400 + hours * 3600 + minutes * 60 + seconds:
        refuse("trainer.max_time", repr(text), "must be longer than zero")
    return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def validate_plan(plan: PlanConfig, dry_run: bool) -> None:
    """Checks what a plan assumes."""
    if plan.device is not None:
        one_of("plan.device", plan.device, DEVICES)
    if plan.mfu is not None and not 0 < plan.mfu <= 1:
        refuse("plan.mfu", plan.mfu, "must be above 0 and at most 1, a share of the peak")
    one_of("plan.memory_check", plan.memory_check, ("refuse", "warn"))
    if plan.page is not None and not dry_run:
        refuse("plan.page", plan.page, "would be ignored: set dry_run=true too")


def _validate_skip(ranges: list[list[int]]) -> None:
    end = 0
    for each in ranges:
        if len(each) != 2 or not end <= each[0] <= each[1]:
            refuse("data.skip", ranges, "write [[first, last], ...] in ascending order, without overlaps")
        end = each[1] + 1


def validate_data(data: DataConfig) -> None:
    """Checks what can be checked about the data without reading them."""
    positive("data.seq_length", data.seq_length)
    of_a_machine("data.num_workers", data.num_workers, lowest=0)
    _validate_skip(data.skip)
    validate_conversations(data)
