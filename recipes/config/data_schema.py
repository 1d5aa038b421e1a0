"""Settings of the training text: sources and their blend. A ``MISSING`` value must be given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from recipes.bounds import Samples, Tokens


# Not frozen: OmegaConf cannot merge a YAML into an entry of a dictionary of a frozen type.
@dataclass
class SourceConfig:
    """One tokenized source of training text."""

    path: Any = MISSING
    """PREFIX of PREFIX.bin and PREFIX.idx; or a glob, or a directory with all such pairs below it; or a
    list of these. Several files are one source, as if they were one file."""
    weight: float = 1.0
    """Share of the samples, relative to the other sources' weights."""
    tokens: Tokens | None = None
    """Instead of a weight: this many tokens over the run. Sources with weights share the rest."""
    loss_weight: float = 1.0
    """Multiplies the loss of each of its tokens, and so their gradients, in training. 0: nothing is learned
    from it. The loss that is shown is that without weights, of the tokens whose weight is not 0."""
    restart: bool = False
    """Start again from its first sample if its data have changed since the checkpoint that a run is resumed
    from; otherwise such a resume is refused."""


@dataclass(frozen=True)
class DataConfig:
    """Tokenized training and held-out text."""

    train: dict[str, SourceConfig] = field(default_factory=dict)
    """Name of a source -> where it is and its weight. A source of weight 0 is left out."""
    skip: list[list[Samples]] = field(default_factory=list)
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
