"""Settings of how a run is started on a cluster. A value of None is left to the cluster's own default."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ContainerConfig:
    """What the processes run in."""

    runtime: str = "none"
    """none: the project's virtual environment. pyxis or apptainer under Slurm; docker on this machine."""
    image: str | None = None
    """A .sqsh file (pyxis), a .sif file (apptainer), or an image of a registry, written as for Docker."""
    file: str | None = None
    """pyxis: a .sqsh file on the shared file system into which the image is imported once, on one node."""
    mounts: list[str] = field(default_factory=list)
    """Directories beside the project's own, SRC:DST or SRC:DST:ro; each at its own path is the simplest."""


@dataclass(frozen=True)
class HealthConfig:
    """What every node must have before each start of a training run. A node that has not is replaced by a
    spare one; without spares the job is requeued and excludes it. With all at null nothing is checked."""

    gpus: int | None = None
    """So many GPUs, without uncorrected memory errors and unused, as nvidia-smi says."""
    memory_gb: int | None = None
    """Free memory of the host."""
    disk_gb: int | None = None
    """Free space in TMPDIR or /tmp."""
    node_all_reduce_gb_per_s: float | None = None
    """Bandwidth of an all-reduce over the GPUs of the node, where it has several: bus bandwidth in GB/s, as
    nccl-tests gives it (size / time * 2 (n - 1) / n). 8 H100 with NVSwitch reach 370 to 480."""
    pair_all_reduce_gb_per_s: float | None = None
    """The same over the GPUs of two nodes, where a run has several; a slow pair's nodes are measured again
    with others, so that the slow one is known. 8 ports of 400 Gbit/s reach some 370."""
    command: str | None = None
    """A command that must succeed, such as dcgmi diag -r 1."""


@dataclass(frozen=True)
class LaunchConfig:
    """How a job is started, kept alive and stopped."""

    scheduler: str = "slurm"
    """slurm, or local: this machine, in the foreground."""
    account: str | None = None
    """Whom the hours are charged to."""
    partition: str | None = None
    """Of the cluster's nodes."""
    qos: str | None = None
    """Quality of service: priority and limits."""
    reservation: str | None = None
    """Nodes that are set aside for the team."""
    constraint: str | None = None
    """Features that nodes must have."""
    exclude: list[str] = field(default_factory=list)
    """Nodes that are not used, as Slurm writes them: node07, node[10-12]."""
    spare_nodes: int = 0
    """Nodes to ask for beyond cluster.nodes, for those that fail the health check; otherwise idle."""
    health: HealthConfig = field(default_factory=HealthConfig)
    time_limit: str | None = None
    """Of one job; the run may need many. HH:MM:SS or D-HH:MM:SS."""
    stop_before_limit_s: int = 300
    """How long before the time limit a run is told to save and to stop: a step, the saves that are under way
    and the last save must end by then. A run whose saves take longer warns."""
    request_gpus: bool = True
    """Ask Slurm for gpus_per_node GPUs; false where nodes have none, or where Slurm does not count them."""
    cpus_per_task: int | None = None
    """Processors of each process; None: an equal share of the node's."""
    max_requeue: int = 100
    """How often a job requeues itself."""
    max_failures: int = 3
    """Starts in a row without a new checkpoint after which a job gives up."""
    chain: int = 1
    """Submit so many jobs, each of which begins when the one before has ended, instead of one that requeues
    itself: for clusters without requeueing. A job that finds the run complete ends at once."""
    mail_user: str | None = None
    """Is told when a job ends or fails."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables of all processes, such as the fabric's: NCCL_IB_HCA, NCCL_SOCKET_IFNAME."""
    venv: str | None = None
    """Without a container: the virtual environment; None: .venv in the project directory."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
