"""Refuses phases that contradict each other or the run. No torch here."""

from __future__ import annotations

from recipes.checks import one_of, positive, refuse
from recipes.config.foreign_keys import FOREIGN_VALUES
from recipes.config.lengths import Clock
from recipes.config.phase_schema import PhaseConfig
from recipes.config.phases import plan_phases
from recipes.config.schedule import DEFAULTS, RATE_KEYS, begins_schedule, schedule_of
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.config.validate_optim import DECAY_STYLES, WSD_STYLES, validate_schedule


def validate_phases(config: PretrainConfig, data_parallel_size: int) -> None:
    """Checks every phase by itself and where it stands.

    Raises:
        UserError: with the key, the value and the fix.
    """
    for number, phase in enumerate(config.phases):
        _check_end(f"phases[{number}]", phase, is_last=number == len(config.phases) - 1)
        _check_batches(f"phases[{number}]", phase, config, data_parallel_size)
        _check_lengths(f"phases[{number}]", phase, config)
    plan_phases(config)


def _check_end(key: str, phase: PhaseConfig, *, is_last: bool) -> None:
    ends = [name for name in ("until_step", "until_tokens") if getattr(phase, name) is not None]
    if is_last and ends:
        refuse(
            f"{key}.{ends[0]}",
            getattr(phase, ends[0]),
            "the last phase lasts to the run's end, trainer.max_steps or max_tokens; remove it",
        )
    if not is_last and not ends:
        refuse(key, "no end", "give every phase but the last one until_step or until_tokens")
    if len(ends) > 1:
        refuse(f"{key}.{ends[1]}", getattr(phase, ends[1]), f"{ends[0]} is given already; leave one out")
    for name in ends:
        positive(f"{key}.{name}", getattr(phase, name))


def _check_batches(key: str, phase: PhaseConfig, config: PretrainConfig, data_parallel_size: int) -> None:
    for name in ("global_batch_size", "micro_batch_size"):
        if getattr(phase, name) is not None:
            positive(f"{key}.{name}", getattr(phase, name))
    micro_batch_size = phase.micro_batch_size or config.trainer.micro_batch_size
    full = phase.global_batch_size or config.trainer.global_batch_size
    chunk = micro_batch_size * data_parallel_size
    rule = (
        f"must be a multiple of micro_batch_size x data-parallel size = {micro_batch_size} x "
        f"{data_parallel_size} = {chunk:,}"
    )
    if full % chunk:
        set_here = "global_batch_size" if phase.global_batch_size is not None else "micro_batch_size"
        batch = "" if phase.global_batch_size is not None else f"trainer.global_batch_size={full} "
        refuse(f"{key}.{set_here}", getattr(phase, set_here), batch + rule)
    if phase.rampup_batch_size is None:
        return
    key, ramp = f"{key}.rampup_batch_size", phase.rampup_batch_size
    if len(ramp) != 3 or min(ramp) < 1:
        refuse(key, list(ramp), "write [start, increment, samples], three positive numbers")
    start, increment, _ = ramp
    if start >= full:
        refuse(key, list(ramp), f"the start must be below global_batch_size={full}")
    for what, size in (("start", start), ("increment", increment)):
        if size % chunk:
            refuse(key, list(ramp), f"the {what} {rule}")
    if (full - start) % increment:
        refuse(key, list(ramp), f"from {start} in steps of {increment} one does not come to {full}")


def _check_lengths(key: str, phase: PhaseConfig, config: PretrainConfig) -> None:
    if phase.seq_length is not None:
        positive(f"{key}.seq_length", phase.seq_length)
        validate_length(f"{key}.seq_length", phase.seq_length, config)
        if config.data.conversations and phase.seq_length != config.data.seq_length:
            fix = f"conversations are packed at one length, data.seq_length={config.data.seq_length:,}"
            refuse(f"{key}.seq_length", phase.seq_length, f"{fix}; leave it out")
    if phase.rotary_base is not None:
        positive(f"{key}.rotary_base", phase.rotary_base)
        positions = config.model.position_embedding_type
        if positions != "rope":
            fix = f"would be ignored: model.position_embedding_type is {positions}"
            refuse(f"{key}.rotary_base", phase.rotary_base, fix)


def validate_length(key: str, seq_length: int, config: PretrainConfig) -> None:
    """Checks that the model and the layout allow samples of this length."""
    parallel, most = config.parallel, config.model.max_position_embeddings
    if seq_length > most:
        refuse(key, seq_length, f"longer than model.max_position_embeddings={most:,}; lower it")
    tp, cp = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    if seq_length % (2 * cp) and cp > 1:
        refuse(key, seq_length, f"context_parallel_size={cp} needs a multiple of {2 * cp}")
    if parallel.sequence_parallel and seq_length // cp % tp:
        refuse(key, seq_length, f"sequence_parallel needs a multiple of {tp * cp}")


def validate_schedules(config: PretrainConfig) -> None:
    """Checks the run's learning-rate schedule and those of its phases.

    Raises:
        UserError: with the key, the value and the fix.
    """
    timeline = timeline_of(config)
    validate_schedule("optim", config.optim, Clock(timeline))
    own = [(f"phases[{number}]", each) for number, each in enumerate(config.phases) if begins_schedule(each)]
    for key, phase in own:
        _check_rate_settings(key, phase)
    for (key, phase), segment in zip(own, schedule_of(config).segments[1:], strict=True):
        low, peak = segment.optim.min_lr, segment.optim.lr
        if not 0 <= low <= peak:
            which = "lr" if phase.lr is not None else "reached rate"
            refuse(f"{key}.min_lr", low, f"must lie between 0 and the phase's {which}, {peak:g}")
        validate_schedule(key, segment.optim, Clock(timeline, segment.first_step))


def _check_rate_settings(key: str, phase: PhaseConfig) -> None:
    if key == "phases[0]":
        first = next(name for name in RATE_KEYS if getattr(phase, name) != DEFAULTS[name])
        refuse(
            f"{key}.{first}", getattr(phase, first), f"the run's own schedule begins there: set optim.{first}"
        )
    if phase.lr is not None:
        positive(f"{key}.lr", phase.lr)
    elif phase.lr_warmup_steps or phase.lr_warmup_tokens is not None:
        refuse(f"{key}.lr", None, "a warm-up needs a peak: set it, or leave out the warm-up")
    for name, choices in (("lr_decay_style", DECAY_STYLES), ("lr_wsd_decay_style", WSD_STYLES)):
        if getattr(phase, name) is not None:
            one_of(f"{key}.{name}", getattr(phase, name), choices, FOREIGN_VALUES)
