"""Settings of the optimizer, its learning rate, its groups. A ``MISSING`` value must be given."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from recipes.bounds import Rate, Tokens


# Not frozen: OmegaConf cannot merge a YAML into an entry of a list of a frozen type.
@dataclass
class GroupConfig:
    """Parameters that are chosen by name, and what is different about them."""

    pattern: str = MISSING
    """Glob for parameters' names as dry_run and tools.inspect show them, which are a checkpoint's under every
    layout: embedding.*, decoder.layers.[0-3].*, *.linear_qkv.weight. One that matches nothing is refused."""
    lr: Rate | None = None
    """Peak learning rate; min_lr in proportion. 0 leaves the parameters as they are. null: see lr_mult."""
    lr_mult: Rate = 1.0
    """Instead of lr: times the rate that the parameters would have without the group."""
    weight_decay: float | None = None
    """null: as without the group, none for norms and biases, and with muon for all but matrices."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning rate."""

    name: str = "adamw"
    """adamw, or muon: Muon for the layers' matrices and AdamW for the rest."""
    lr: Rate = MISSING
    """Peak learning rate; with muon, of the matrices."""
    min_lr: Rate = 0.0
    """What lr decays to. The rates below decay to the same fraction of themselves, by the same schedule."""
    embedding_lr: Rate | None = None
    """Peak learning rate of the embedding tables; None: lr."""
    head_lr: Rate | None = None
    """Peak learning rate of the untied output head; None: lr."""
    scalar_lr: Rate | None = None
    """muon: peak learning rate of norms, biases and scalars; None: lr."""
    weight_decay: float = 0.1
    """adamw: not applied to norms and biases (one-dimensional parameters). muon: applied to the matrices
    only, where update and weight agree in sign (cautious)."""
    muon_momentum: float = 0.95
    """Nesterov momentum."""
    muon_num_iterations: int = 5
    """Polar Express iterations that orthogonalise an update."""
    muon_beta2: float = 0.95
    """Decay of the second moment per row or column; 0: only the current update counts."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW, as is eps."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    lr_decay_style: str = "cosine"
    """cosine, linear, WSD, constant or inverse-square-root."""
    lr_warmup_steps: int = 0
    """Steps in which the learning rate rises from 0 to its peak."""
    lr_warmup_tokens: Tokens | None = None
    """Warm-up in tokens instead of steps, rounded up to whole steps."""
    lr_decay_steps: int | None = None
    """Step at which min_lr is reached; None: the run's last step."""
    lr_decay_tokens: Tokens | None = None
    """The same in tokens, instead."""
    lr_wsd_decay_steps: int | None = None
    """WSD: length of the final decay; None: a tenth of lr_decay_steps."""
    lr_wsd_decay_tokens: Tokens | None = None
    """The same in tokens, instead."""
    lr_wsd_decay_style: str = "linear"
    """WSD: linear, cosine, exponential or minus_sqrt."""
    groups: list[GroupConfig] = field(default_factory=list)
    """Learning rates and weight decay of parameters chosen by name; a parameter belongs to one at most."""
    z_loss_coeff: float = 0.0
    """z-loss (PaLM): this times the square of the log of the softmax's denominator is added to each token's
    loss, to keep logits from drifting; 1e-4 is usual. Losses are logged without it. 0: none."""
