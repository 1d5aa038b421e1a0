"""Refuses optimizer settings that contradict each other, the model or the layout. No torch here."""

from __future__ import annotations

import dataclasses

from recipes.checks import not_negative, one_of, positive, refuse
from recipes.config.foreign_keys import FOREIGN_VALUES
from recipes.config.lengths import Clock, configured_decay, configured_warmup, configured_wsd_decay
from recipes.config.parameter_groups import validate_groups
from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.families.model_config import ModelConfig

OPTIMIZERS = ("adamw", "muon")
DECAY_STYLES = ("cosine", "linear", "WSD", "constant", "inverse-square-root")
WSD_STYLES = ("linear", "cosine", "exponential", "minus_sqrt")
DEFAULTS = {setting.name: setting.default for setting in dataclasses.fields(OptimConfig)}
MUON_SETTINGS = ("scalar_lr", "muon_momentum", "muon_num_iterations", "muon_beta2")
MAX_ITERATIONS = 7
"""recipes/optim/polar.py has coefficients for this many; more would change nothing in float32."""


def validate_optim(optim: OptimConfig, model: ModelConfig, parallel: ParallelConfig) -> None:
    """Checks the optimizer; :func:`validate_schedule` checks the rest."""
    one_of("optim.name", optim.name, OPTIMIZERS, FOREIGN_VALUES)
    positive("optim.lr", optim.lr)
    positive("optim.eps", optim.eps)
    if not 0 <= optim.min_lr <= optim.lr:
        refuse("optim.min_lr", optim.min_lr, f"must lie between 0 and optim.lr={optim.lr}")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        refuse("optim.betas", list(optim.betas), "give two numbers, each at least 0 and below 1")
    for key in ("weight_decay", "clip_grad", "z_loss_coeff"):
        not_negative(f"optim.{key}", getattr(optim, key))
    for key in ("embedding_lr", "head_lr", "scalar_lr"):
        value = getattr(optim, key)
        if value is not None:
            positive(f"optim.{key}", value)
    if optim.head_lr is not None and model.share_embeddings_and_output_weights:
        refuse(
            "optim.head_lr",
            optim.head_lr,
            "would be ignored: the head is tied to the embedding and trained at embedding_lr; set "
            "optim.head_lr=null",
        )
    if optim.name == "muon":
        _validate_muon(optim, parallel)
    else:
        for key in MUON_SETTINGS:
            if getattr(optim, key) != DEFAULTS[key]:
                refuse(f"optim.{key}", getattr(optim, key), "would be ignored: optim.name is not muon")
    validate_groups(optim, model)


def _validate_muon(optim: OptimConfig, parallel: ParallelConfig) -> None:
    for key in ("muon_momentum", "muon_beta2"):
        if not 0 <= getattr(optim, key) < 1:
            refuse(f"optim.{key}", getattr(optim, key), "must be at least 0 and below 1")
    if not 1 <= optim.muon_num_iterations <= MAX_ITERATIONS:
        refuse("optim.muon_num_iterations", optim.muon_num_iterations, f"must be 1 to {MAX_ITERATIONS}")
    if parallel.overlap_param_gather:
        refuse(
            "parallel.overlap_param_gather",
            True,
            "would be ignored: it belongs to adamw's distributed optimizer; turn it off with optim.name=muon",
        )


def validate_schedule(group: str, optim: OptimConfig, clock: Clock) -> None:
    """Checks a learning-rate schedule.

    Args:
        group: whose keys the messages name, optim or a phase.
        optim: with the schedule's settings.
        clock: which counts from the schedule's begin.
    """
    one_of(f"{group}.lr_decay_style", optim.lr_decay_style, DECAY_STYLES, FOREIGN_VALUES)
    one_of(f"{group}.lr_wsd_decay_style", optim.lr_wsd_decay_style, WSD_STYLES)
    not_negative(f"{group}.lr_warmup_steps", optim.lr_warmup_steps)
    for key in ("lr_decay_steps", "lr_wsd_decay_steps", *_steps_and_tokens().values()):
        value = getattr(optim, key)
        if value is not None:
            positive(f"{group}.{key}", value)
    for in_steps, in_tokens in _steps_and_tokens().items():
        if getattr(optim, in_tokens) is not None and getattr(optim, in_steps) != DEFAULTS[in_steps]:
            refuse(
                f"{group}.{in_tokens}",
                getattr(optim, in_tokens),
                f"{group}.{in_steps}={getattr(optim, in_steps)} says the same; set that to "
                f"{'null' if DEFAULTS[in_steps] is None else DEFAULTS[in_steps]}, or leave this out",
            )
    wsd_key = "lr_wsd_decay_tokens" if optim.lr_wsd_decay_tokens is not None else "lr_wsd_decay_steps"
    wsd_is_set = getattr(optim, wsd_key) is not None
    if wsd_is_set and optim.lr_decay_style != "WSD":
        refuse(f"{group}.{wsd_key}", getattr(optim, wsd_key), "would be ignored: needs lr_decay_style=WSD")
    wsd_style = optim.lr_wsd_decay_style
    if wsd_style != DEFAULTS["lr_wsd_decay_style"] and optim.lr_decay_style != "WSD":
        refuse(f"{group}.lr_wsd_decay_style", wsd_style, "would be ignored: needs lr_decay_style=WSD")
    decay = configured_decay(optim, clock)
    if decay is None:
        return
    decay_key = "lr_decay_tokens" if optim.lr_decay_tokens is not None else "lr_decay_steps"
    if optim.lr_decay_style == "constant":
        fix = "would be ignored: lr_decay_style=constant never decays; set it to null"
        refuse(f"{group}.{decay_key}", getattr(optim, decay_key), fix)
    warmup_key = "lr_warmup_tokens" if optim.lr_warmup_tokens is not None else "lr_warmup_steps"
    warmup = configured_warmup(optim, clock)
    bound = f"{decay_key}={getattr(optim, decay_key)}"
    if warmup >= decay:
        refuse(f"{group}.{warmup_key}", getattr(optim, warmup_key), f"must be below {bound}")
    wsd_decay = configured_wsd_decay(optim, clock, decay)
    if wsd_decay is not None and wsd_decay > decay - warmup:
        refuse(
            f"{group}.{wsd_key}",
            getattr(optim, wsd_key),
            f"must be at most {decay_key} - {warmup_key} = {decay - warmup} steps",
        )


def _steps_and_tokens() -> dict[str, str]:
    """Keys of lengths in steps -> keys of the same lengths in tokens."""
    return {f"{length}_steps": f"{length}_tokens" for length in ("lr_warmup", "lr_decay", "lr_wsd_decay")}
