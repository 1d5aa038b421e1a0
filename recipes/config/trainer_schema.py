"""What a run keeps of itself, and what it watches while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.bounds import LossScale


@dataclass(frozen=True)
class LocalCheckpointConfig:
    """Checkpoints on the nodes' own disks: cheap enough for every few minutes, for the same layout only.

    A run starts from the newest if that is newer than its shared checkpoints, and deletes all when it is
    complete.
    """

    directory: str | None = None
    """On each node's own disk, not shared; may name variables of the node: ${oc.env:TMPDIR}. It holds twice a
    node's share of the state, with copies four times. None: no local checkpoints."""
    every_n_steps: int | None = None
    """Save every this many steps."""
    every_minutes: float | None = None
    """Save at the end of the step in which this much time since the last local save is over."""
    copies: bool = True
    """Also send every node's part to the next node, so that no single lost node matters. Without effect on a
    single node."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When training checkpoints are written, and which are kept."""

    every_n_steps: int | None = None
    """None: only at the end and when the run is stopped, unless every_minutes is set."""
    every_minutes: float | None = None
    """Save at the end of the step in which this much time since the last save, or the start, is over, by the
    first rank's clock; may be set beside every_n_steps."""
    keep_last: int = 2
    """How many of the newest step_* directories are kept."""
    keep_best: int = 0
    """How many of the best by validation loss (mean of the held-out sets) are kept too; checkpoints/best then
    points to the best. Only checkpoints of validated steps count."""
    keep_every_n_steps: int | None = None
    """Checkpoints of every n-th step are kept forever; a multiple of every_n_steps."""
    verify: str = "start"
    """When files are compared with the manifest's SHA-256. start: before a run continues from them.
    background: then, and in a thread as soon as they are written, so that a damaged checkpoint is set aside
    while an older one is still there. size: never, but their sizes before a run continues, since reading the
    state of a large model twice takes minutes."""
    async_save: bool | str = "auto"
    """Write a checkpoint while training continues: a step's state is copied to host memory (as much as the
    checkpoint's size), and a thread writes it. A second one may begin meanwhile, where memory and disk have
    room. auto: on a GPU; on a CPU the thread would take training's own cores. Saves at the end or on a signal
    are waited for."""
    local: LocalCheckpointConfig = field(default_factory=LocalCheckpointConfig)

    @property
    def compares_sha256(self) -> bool:
        """Whether contents are compared before a run continues from them."""
        return self.verify != "size"


@dataclass(frozen=True)
class GuardsConfig:
    """What a run does about steps that go wrong."""

    max_skipped_steps: int = 10
    """A step whose gradients are not finite is skipped: it changes nothing, and metrics.jsonl says which
    samples it was. So many in a row end the run with exit code 4; 1: the first one does."""
    hang_timeout_s: float | None = 1200
    """When no step and no batch of held-out text has ended for so many seconds, every rank writes where it
    stands to logs/hang_rank_*.txt, and the run ends with exit code 5. A save may take longer while its files
    grow; samples and a benchmark must not. Collectives give up after 1800 s, without stacks. null: no
    limit."""
    compare_replicas_every_n_steps: int | None = None
    """Every this many steps, weights are compared over the data-parallel replicas; if they are not equal to
    the bit, the run ends with exit code 4. Each time the device is waited for. null: never."""
    loss_spike_zscore: float | None = None
    """A loss so many standard deviations above the mean of the last loss_spike_window steps, 8 say, is a
    spike: the run goes back to the last checkpoint before it and leaves out the samples that it came with.
    Each step's loss is then added up over ranks. null: never."""
    loss_spike_window: int = 128
    """So many steps a loss is compared with; before there are so many, none is a spike."""
    loss_spike_skip_steps: int = 2
    """The samples of so many steps are left out: the spike's and those right before it."""
    max_rollbacks: int = 3
    """A run goes back so many times in all; the next spike ends it with exit code 4."""
    warn_of_stragglers_from: float | None = None
    """Warn when the slowest rank's own part of a step takes this many times as long as the median rank's
    (of two ranks: the other's). The ratio is in metrics.jsonl in any case. null: never."""


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, for logger=wandb."""

    project: str = "param-recipes"
    """The project that the run appears in."""
    entity: str | None = None
    """The user or team that the project belongs to; null: the account's own, or $WANDB_ENTITY."""
    offline: bool = False
    """Keep the figures in <run directory>/wandb, for `wandb sync` where there is a network; so does
    $WANDB_MODE=offline."""


@dataclass(frozen=True)
class EmaConfig:
    """An exponential moving average of the weights, in fp32, kept in every checkpoint beside the weights."""

    decay: float | None = None
    """What is left of the average at each update, 0.999 say; it begins with the initial weights, or where it
    is turned on. Takes 4 bytes a parameter, divided over data-parallel ranks. null: no average."""
    every_n_steps: int = 1
    """Update it after every this many steps."""
    validate: bool = True
    """Validations also take the averages' figures, valid.<set>.ema_loss and .ema_bits_per_byte, in twice the
    time."""


@dataclass(frozen=True)
class Fp16Config:
    """trainer.precision=fp16: the loss scale, which keeps small gradients above fp16's smallest number."""

    initial_loss_scale: LossScale = 65536.0
    """Where it begins. Losses are summed over a micro-batch's tokens, not averaged: so it is smaller here
    than elsewhere."""
    min_loss_scale: LossScale = 1.0
    """It does not fall below; steps that overflow there count for trainer.guards.max_skipped_steps."""
    loss_scale_window: int = 1000
    """Steps without an overflow after which it doubles."""
    hysteresis: int = 2
    """Overflows after which each one halves it, until it has doubled again."""
