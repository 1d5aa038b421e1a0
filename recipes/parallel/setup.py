"""Process groups and random seeds, on CUDA over NCCL or on the CPU over gloo."""

from __future__ import annotations

import atexit
import hashlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from recipes.config.schema import ParallelConfig
from recipes.config.world import World
from recipes.errors import UserError
from recipes.parallel import cpu_stand_in
from recipes.parallel.interfaces import NO_INTERFACE
from recipes.parallel.rendezvous import rendezvous

TIMEOUT = timedelta(minutes=30)

# The random state of the routers' noise: one per process, since each routes different tokens.
ROUTER_NOISE = "router-noise"


def device_of(world: World) -> torch.device:
    """The device this process computes on; it becomes the current CUDA device."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    return device


def resolve_dtype(precision: str) -> torch.dtype:
    """Of weights. ``auto``: bf16 on CUDA, fp32 on the CPU; ``fp8``: bf16, as all but products."""
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() else "fp32"
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.bfloat16}
    return dtypes[precision]


def set_cpu_threads(num_threads: int | None, world: World) -> None:
    """Takes the number given, else OMP_NUM_THREADS, else the machine's cores divided among its processes."""
    torch.set_num_threads(num_threads or _threads_of_environment(world) or cores_of_process(world))


def cores_of_process(world: World) -> int:
    """The machine's, divided among its processes."""
    return max(1, _cores() // world.local_size)


def _threads_of_environment(world: World) -> int | None:
    """OMP_NUM_THREADS, as the user set it: torchrun sets 1 for several processes that have none."""
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not asked.isdecimal() or int(asked) == 0 or (asked == "1" and world.local_size > 1):
        return None
    return int(asked)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def init_process_group(world: World, rendezvous_timeout_s: float = 1800.0) -> None:
    """Starts torch.distributed: NCCL with CUDA, gloo without.

    Raises:
        UserError: other processes did not arrive within ``rendezvous_timeout_s``.
    """
    if not torch.cuda.is_available():
        cpu_stand_in.install()
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if world.size == 1:
        _init_alone(backend)
        # Jobs that load a model have no last step that would close the groups, of which NCCL complains.
        atexit.register(_close)
        return
    store = rendezvous(world, rendezvous_timeout_s)
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=TIMEOUT)


def _init_alone(backend: str) -> None:
    try:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    except RuntimeError as error:
        if "Unable to find" not in str(error):
            raise
        raise UserError(NO_INTERFACE) from None


def _close() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def init_model_parallel(parallel: ParallelConfig, seed: int) -> None:
    """megatron-core's process groups and its per-region random states."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        expert_tensor_parallel_size=parallel.expert_tensor_parallel_size,
        create_gloo_process_groups=torch.cuda.is_available(),
    )
    seed_random_states(seed)


def seed_random_states(seed: int) -> None:
    """Random states: for dropout one per tensor- and pipeline-parallel rank, as in Megatron-LM, and per
    context-parallel rank, since each has different tokens; for the routers' noise one per process.
    """
    from megatron.core import parallel_state, tensor_parallel

    stage_seed = seed + 100 * parallel_state.get_pipeline_model_parallel_rank()
    stage_seed += 10_000 * parallel_state.get_context_parallel_rank()
    tensor_parallel.model_parallel_cuda_manual_seed(stage_seed, force_reset_rng=True)
    digest = hashlib.sha256(f"{ROUTER_NOISE}:{seed}:{dist.get_rank()}".encode()).digest()
    tensor_parallel.get_cuda_rng_tracker().add(ROUTER_NOISE, int.from_bytes(digest[:7], "little"))
