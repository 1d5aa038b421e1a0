"""Settings of the training text: sources, blends and phases. A ``MISSING`` value must be given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


# The next three are not frozen: OmegaConf cannot merge a YAML into an entry of a dictionary or list of a
# frozen type.
@dataclass
class SourceConfig:
    """One tokenized source of training text."""

    path: Any = MISSING
    """PREFIX of PREFIX.bin and PREFIX.idx; or a glob, or a directory with all such pairs below it; or a
    list of these. Several files are one source, as if they were one file."""
    weight: float = 1.0
    """Share of the samples, relative to the other sources' weights."""
    tokens: int | None = None
    """Instead of a weight: this many tokens over the run. Sources with weights share the rest."""
    restart: bool = False
    """Start again from its first sample if its data have changed since the checkpoint that a run is resumed
    from; otherwise such a resume is refused."""


@dataclass
class ShareConfig:
    """What one source gives to a phase."""

    weight: float = 1.0
    """Share of the phase's samples, relative to the other sources' weights."""
    tokens: int | None = None
    """Instead of a weight: this many tokens over the phase."""


@dataclass
class PhaseConfig:
    """A part of the run with its own blend. Each phase except the last has one of the two ends."""

    until_step: int | None = None
    """The phase ends before this optimizer step, counted from the run's beginning."""
    until_tokens: int | None = None
    """The same in tokens of the run, rounded up to whole steps."""
    train: dict[str, ShareConfig] = field(default_factory=dict)
    """Name of one of data.train's sources -> what it gives. Sources that are not named give nothing."""


@dataclass(frozen=True)
class DataConfig:
    """Tokenized training and held-out text."""

    train: dict[str, SourceConfig] = field(default_factory=dict)
    """Name of a source -> where it is and its weight. A source of weight 0 is left out."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Blends that follow one another; empty: a single blend, with data.train's weights."""
    skip: list[list[int]] = field(default_factory=list)
    """Ranges of samples that are left out, [[first, last], ...], as metrics.jsonl numbers them in its events.
    What follows moves up. A resumed run can leave out only what it has not read."""
    valid: dict[str, str] = field(default_factory=dict)
    """Name of a held-out set -> PREFIX; the name appears in metrics as valid.<name>.loss."""
    seq_length: int = MISSING
    """Tokens per training sample."""
    eod_mask_loss: bool = False
    """Leave the prediction at end-of-document tokens out of the loss."""
    reset_attention_mask: bool = False
    """Attend to each document separately, as if it were alone: no token sees the document before its own,
    and positions begin anew. Documents must end with the tokenizer's end token."""
    conversations: bool = False
    """The sources and held-out sets are conversations, as tools.prepare_chats writes them. They stay whole,
    and what counts in the loss is answers."""
    packing: bool = True
    """Conversations: as many in a sample as fit, which needs reset_attention_mask; false: one, padded."""
    loss_on: str = "assistant"
    """Conversations: assistant (its answers and what ends them), or all (every token)."""
    index_cache_dir: str | None = None
    """Where sample indices are kept; None: index_cache/ in the run directory."""
    num_workers: int = 0
    """Data loader processes per rank."""
