"""Settings of a run's phases, which may each have their own blend, batches, lengths and learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.bounds import Batch, Rate, Samples, Tokens


# Not frozen: OmegaConf cannot merge a YAML into an entry of a dictionary or list of a frozen type.
@dataclass
class ShareConfig:
    """What one source gives to a phase."""

    weight: float = 1.0
    """Share of the phase's samples, relative to the other sources' weights."""
    tokens: Tokens | None = None
    """Instead of a weight: this many tokens over the phase."""
    loss_weight: float | None = None
    """Multiplies the loss of each of its tokens in the phase; None: data.train's for the source."""


@dataclass
class PhaseConfig:
    """A part of the run. Each phase except the last has one of the two ends; what it leaves out is the run's.

    With any of the keys ``lr`` to ``lr_wsd_decay_style`` a schedule of its own begins, which counts steps
    from the phase's first one and lasts until a later phase begins another; otherwise the schedule goes on.
    """

    name: str | None = None
    """What the phase is called on the screen and in metrics.jsonl; None: its number, from 0."""
    until_step: int | None = None
    """The phase ends before this optimizer step, counted from the run's beginning."""
    until_tokens: Tokens | None = None
    """The same in tokens of the run, rounded up to whole steps."""
    train: dict[str, ShareConfig] = field(default_factory=dict)
    """Name of one of data.train's sources -> what it gives. Sources that are not named give nothing. Empty:
    data.train's own weights."""
    global_batch_size: Batch | None = None
    """Samples per optimizer step; None: trainer.global_batch_size."""
    rampup_batch_size: list[Samples] | None = None
    """[start, increment, samples]: the phase begins with batches of start samples, which grow by increment in
    equal parts of its first so many samples, up to its global_batch_size. As Megatron's and NeMo's."""
    micro_batch_size: Batch | None = None
    """Samples per forward pass of one rank; None: trainer.micro_batch_size."""
    seq_length: int | None = None
    """Tokens per training sample; None: data.seq_length, with which validation is done in every phase."""
    rotary_base: int | None = None
    """RoPE base, that of full attention where windowed layers have their own; None: model.rotary_base. Files
    of the model hold the base of the phase that they are from."""
    lr: Rate | None = None
    """Peak learning rate; None: the rate that the run has reached. Rates of embeddings, head and scalars keep
    their ratio to it."""
    min_lr: Rate | None = None
    """What it decays to; None: optim.min_lr."""
    lr_decay_style: str | None = None
    """cosine, linear, WSD, constant or inverse-square-root; None: optim.lr_decay_style."""
    lr_warmup_steps: int = 0
    """Steps in which the learning rate goes from what the run has reached to lr."""
    lr_warmup_tokens: Tokens | None = None
    """The same in tokens of the phase, instead."""
    lr_decay_steps: int | None = None
    """Step of the phase at which min_lr is reached; None: the last one of this schedule."""
    lr_decay_tokens: Tokens | None = None
    """The same in tokens of the phase, instead."""
    lr_wsd_decay_steps: int | None = None
    """WSD: length of the final decay; None: a tenth of the schedule."""
    lr_wsd_decay_tokens: Tokens | None = None
    """The same in tokens, instead."""
    lr_wsd_decay_style: str | None = None
    """WSD: linear, cosine, exponential or minus_sqrt; None: optim.lr_wsd_decay_style."""
