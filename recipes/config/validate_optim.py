"""Refuses optimizer settings that contradict each other."""

from __future__ import annotations

from recipes.config.checks import not_negative, one_of, positive, refuse
from recipes.config.schema import OptimConfig

DECAY_STYLES = ("cosine", "linear", "WSD", "constant", "inverse-square-root")
WSD_STYLES = ("linear", "cosine", "exponential", "minus_sqrt")


def validate_optim(optim: OptimConfig) -> None:
    """Checks optimizer and schedule."""
    one_of("optim.name", optim.name, ("adamw",))
    one_of("optim.lr_decay_style", optim.lr_decay_style, DECAY_STYLES)
    one_of("optim.lr_wsd_decay_style", optim.lr_wsd_decay_style, WSD_STYLES)
    positive("optim.lr", optim.lr)
    positive("optim.eps", optim.eps)
    if not 0 <= optim.min_lr <= optim.lr:
        refuse("optim.min_lr", optim.min_lr, f"must lie between 0 and optim.lr={optim.lr}")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        refuse("optim.betas", list(optim.betas), "give two numbers, each at least 0 and below 1")
    for key in ("weight_decay", "clip_grad", "lr_warmup_steps"):
        not_negative(f"optim.{key}", getattr(optim, key))
    for key in ("lr_decay_steps", "lr_wsd_decay_steps"):
        value = getattr(optim, key)
        if value is not None:
            positive(f"optim.{key}", value)
    if optim.lr_decay_steps is not None and optim.lr_warmup_steps >= optim.lr_decay_steps:
        refuse(
            "optim.lr_warmup_steps",
            optim.lr_warmup_steps,
            f"must be below lr_decay_steps={optim.lr_decay_steps}",
        )
    if optim.lr_wsd_decay_steps is not None and optim.lr_decay_style != "WSD":
        refuse(
            "optim.lr_wsd_decay_steps", optim.lr_wsd_decay_steps, "would be ignored: needs lr_decay_style=WSD"
        )
    if optim.lr_wsd_decay_steps is not None and optim.lr_decay_steps is not None:
        longest = optim.lr_decay_steps - optim.lr_warmup_steps
        if optim.lr_wsd_decay_steps > longest:
            refuse(
                "optim.lr_wsd_decay_steps",
                optim.lr_wsd_decay_steps,
                f"must be at most lr_decay_steps - lr_warmup_steps = {longest}",
            )
