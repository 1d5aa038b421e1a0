"""A layout's ranks one after the other in one process, and rank 0's planning of a checkpoint of all."""

from __future__ import annotations

import argparse
import pickle
import random
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, is_main_replica
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.checkpoint.planner import SavePlan
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.measure.shared_out import NotOnce, Part, check_samples_once, check_written_once
from benchmarks.records import record
from recipes.checkpoint.save.training_state import OPTIMIZER_METADATA, training_state
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from recipes.model.build import build_gpt_model
from recipes.optim.own_parts import described_parameters, own_parts
from recipes.parallel.setup import init_model_parallel, resolve_dtype
from recipes.training.engine import build_engine

COLLECTIVES = (
    *("all_reduce", "broadcast", "barrier", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor"),
    *("gather", "scatter", "all_to_all", "all_gather_object", "gather_object", "broadcast_object_list"),
)
OTHERS = 3
"""Ranks that are built beside those that write."""


@dataclass
class Rank:
    """What one rank has built."""

    number: int
    written: list[Part]
    """What it writes to a checkpoint besides optimizer state, before replicas share it."""
    states: list[Part]
    """The same of optimizer state, of all replicas, if it is the first."""
    state_plans: list[bytes]
    """What each of these replicas sends to rank 0 for it to plan a checkpoint."""
    weights: int
    """Numbers in its parameters."""
    buckets: list[int]
    """Numbers in each bucket of its gradients, without padding."""
    optimizer_shares: int
    """Numbers whose optimizer state is held by exactly one data-parallel rank: all, or NotOnce is raised."""
    plan: bytes
    """What it sends to rank 0 to plan a checkpoint, without optimizer state."""
    metadata: bytes
    """What it sends to all ranks to have the shards of all compared."""
    groups: int
    """Process groups that were made, whether it is a member or not."""
    collectives: Counter[str]
    """Up to the first step."""
    seconds: float
    """Of a core, to build it."""


@contextmanager
def fake_world(config: PretrainConfig, rank: int, size: int) -> Iterator[Counter[str]]:
    """Process groups of ``size`` ranks, of which only this one is there; counts the calls of
    torch.distributed."""
    calls: Counter[str] = Counter()
    originals = {name: getattr(dist, name) for name in (*COLLECTIVES, "new_group")}
    for name, function in originals.items():
        setattr(dist, name, _counted(name, function, calls))
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        init_model_parallel(config.parallel, config.seed)
        yield calls
    finally:
        for name, function in originals.items():
            setattr(dist, name, function)
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _counted(name: str, function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    # Objects go as tensors whose numbers are read.
    sends = unset_fake_temporarily if "object" in name else nullcontext

    def call(*args: Any, **settings: Any) -> Any:
        calls[name] += 1
        with sends():
            return function(*args, **settings)

    return call


@contextmanager
def without_numbers() -> Iterator[None]:
    """Tensors have shapes and places, but no memory: a rank's gradients and the state that it gathers for a
    checkpoint would take tens of gigabytes, and nothing here depends on their numbers."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        # It compares random states, which are numbers; and nothing is drawn.
        patch.object(CudaRNGStatesTracker, "fork", lambda *_, **__: nullcontext()),
    ):
        yield


def build_rank(config: PretrainConfig, rank: int, size: int) -> Rank:
    """Builds what the trainer would build as this rank.

    Raises:
        NotOnce: a number of its parameters has no optimizer state on the data-parallel ranks, or has it
        twice.
    """
    began = time.process_time()
    with fake_world(config, rank, size) as calls, without_numbers():
        dtype = resolve_dtype(config.trainer.precision)
        gpt = build_gpt_model(config.model, config.parallel, dtype)
        engine = build_engine(gpt, config, dtype)
        groups, collectives = calls.pop("new_group"), Counter(calls)
        # The moments come with the first step; this is how they come when a checkpoint is loaded.
        engine.optimizer.sharded_state_dict(
            gpt.sharded_state_dict(), is_loading=True, metadata=OPTIMIZER_METADATA
        )
        state = training_state(gpt, engine.optimizer, {})
        sharded, _ = save_preprocess(state, False)
        others, _ = save_preprocess({"model": state["model"]}, False)
        shards = [shard for shard in nested_values(others) if isinstance(shard, ShardedTensor)]
        buffers = [*engine.ddp.buffers, *engine.ddp.expert_parallel_buffers]
        described = described_parameters(gpt.sharded_state_dict())
        first_of = [buffer for buffer in buffers if buffer.data_parallel_group.rank() == 0]
        states = [parts for buffer in first_of for parts in _states(buffer, described)]
        return Rank(
            number=rank,
            written=[_written(shard) for shard in shards if is_main_replica(shard.replica_id)],
            states=[_written(part) for parts in states for part in parts],
            state_plans=[pickle.dumps(_local_plan({"parts": parts})) for parts in states],
            weights=sum(parameter.numel() for parameter in gpt.parameters()),
            buckets=[bucket.numel_unpadded for buffer in buffers for bucket in buffer.buckets],
            optimizer_shares=sum(map(_shared_out_once, buffers)),
            plan=pickle.dumps(_local_plan(others)),
            metadata=pickle.dumps([shard.without_data() for shard in nested_values(sharded)]),
            groups=groups,
            collectives=collectives,
            seconds=time.process_time() - began,
        )


def _written(shard: ShardedTensor) -> Part:
    # With the axes that local tensors lack: layers.
    shape = (1,) * shard.prepend_axis_num + tuple(shard.local_shape)
    return shard.key, tuple(shard.global_shape), (tuple(shard.global_offset), shape)


def _states(buffer: Any, described: dict[int, Any]) -> Iterator[list[ShardedTensor]]:
    """What each data-parallel rank writes of the state of a buffer's parameters, without the numbers."""
    for rank in range(buffer.data_parallel_group.size()):
        yield [
            shard
            for parameter, own in _ranges(buffer, rank)
            for kind in ("param", "exp_avg", "exp_avg_sq")
            for shard in own_parts(
                described[id(parameter)],
                f"optimizer.state.{kind}",
                torch.empty(len(own), dtype=torch.float32, device="meta"),
                own,
            )
            if is_main_replica(shard.replica_id)
        ]


def _ranges(buffer: Any, rank: int) -> Iterator[tuple[Any, range]]:
    """What a data-parallel rank updates of a gradient buffer's parameters, by megatron-core's own rule."""
    as_rank = SimpleNamespace(
        data_parallel_group=SimpleNamespace(rank=lambda: rank, size=buffer.data_parallel_group.size),
        buckets=buffer.buckets,
        param_index_map=buffer.param_index_map,
    )
    for bucket in range(len(buffer.buckets)):
        shares = DistributedOptimizer._build_model_gbuf_range(as_rank, bucket)["param_map"]
        for parameter, places in shares.items():
            yield parameter, range(places["param"].start, places["param"].end)


def _shared_out_once(buffer: Any) -> int:
    """Numbers of a gradient buffer, each with one data-parallel rank that updates it."""
    ranges: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for rank in range(buffer.data_parallel_group.size()):
        for parameter, own in _ranges(buffer, rank):
            ranges[parameter].append((own.start, own.stop))
    for parameter in buffer.params:
        reached = 0
        for start, end in sorted(ranges[parameter]):
            if start != reached:
                raise NotOnce(f"a parameter's numbers {reached} to {start} have no rank, or two")
            reached = end
        if reached != parameter.numel():
            raise NotOnce(f"a parameter's numbers from {reached} on have no rank")
    return sum(parameter.numel() for parameter in buffer.params)


def _local_plan(sharded: dict[str, Any]) -> SavePlan:
    """As megatron-core's TorchDistSaveShardedStrategy plans a rank's part."""
    named, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded, True)
    planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
    planner.set_up_planner(mcore_to_pyt_state_dict(named, False), is_coordinator=False)
    return planner.create_local_plan()


def writers(config: PretrainConfig, size: int) -> list[int]:
    """The first replica of every part of the model, of experts too."""
    parallel = config.parallel
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    experts = (parallel.expert_tensor_parallel_size or tp) * parallel.expert_model_parallel_size
    first = max(tp, experts if config.model.num_moe_experts is not None else 1)
    return [stage * (size // pp) + place for stage in range(pp) for place in range(first)]


def parts_of(ranks: list[Rank]) -> Iterator[Part]:
    """All that ranks write to a checkpoint."""
    for rank in ranks:
        yield from rank.written
        yield from rank.states


@dataclass(frozen=True)
class Planned:
    """What planning a checkpoint of all ranks takes on rank 0."""

    seconds: float
    """Of a core."""
    grown: int
    """Bytes that the process grew by."""
    items: int


def plan_checkpoint(ranks: list[Rank]) -> Planned:
    """Rank 0's part of planning: it gets every rank's plan and merges them into the checkpoint's metadata."""
    plans = [rank.plan for rank in ranks]
    plans += [plan for rank in ranks for plan in rank.state_plans]
    before, began = _resident(), time.process_time()
    received = [pickle.loads(plan) for plan in plans]
    planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
    merged, _ = planner.create_global_plan(received)
    seconds = time.process_time() - began
    return Planned(seconds, max(0, _resident() - before), sum(len(plan.items) for plan in merged))


def compare_shards(ranks: list[Rank], size: int) -> Planned:
    """What megatron-core's comparison of all ranks' shards costs every rank, before each save of its default
    kind."""
    known = {rank.number: rank.metadata for rank in ranks}
    other = next(rank.metadata for rank in ranks if not rank.written)
    before, began = _resident(), time.process_time()
    received = [pickle.loads(known.get(number, other)) for number in range(size)]
    seconds = time.process_time() - began
    return Planned(seconds, max(0, _resident() - before), sum(map(len, received)))


def _of(planned: Planned) -> str:
    return f"{planned.seconds:.2f} s of a core and {planned.grown / 2**20:,.0f} MiB"


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def described(overrides: list[str], size: int) -> tuple[PretrainConfig, int]:
    """The run on ``size`` ranks, and its data-parallel size. The batch is one micro-batch for each
    replica."""
    settings = [f"parallel.world_size={size}", "dry_run=true"]
    settings += ["trainer.micro_batch_size=1", f"trainer.global_batch_size={4 * size}"]
    settings += overrides
    if not any(each.startswith(("experiment=", "name=")) for each in overrides):
        settings.insert(0, "experiment=param1_2p9b")
    config = compose("pretrain", settings)
    return config, validate_pretrain(config)


def run(options: argparse.Namespace) -> None:
    """Rehearses each world size and prints what was found."""
    for text in options.ranks.split(","):
        if not text.isdecimal() or int(text) < 2:
            raise UserError(f"--ranks={options.ranks}: write world sizes, 2 or more, as 512,4096")
        rehearse(options, int(text))


def rehearse(options: argparse.Namespace, size: int) -> None:
    """One world size."""
    config, data_parallel_size = described(options.overrides, size)
    parallel = config.parallel
    layout = {
        "tensor": parallel.tensor_model_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
        "context": parallel.context_parallel_size,
        "expert": parallel.expert_model_parallel_size,
        "data": data_parallel_size,
    }
    print(
        f"{config.name} on {size:,} ranks: "
        + " x ".join(f"{name} {count}" for name, count in layout.items()),
        flush=True,
    )
    writing = writers(config, size)
    rest = sorted(set(range(size)) - set(writing))
    chosen = [*writing, *random.Random(config.seed).sample(rest, min(OTHERS, len(rest)))]
    ranks = [build_rank(config, number, size) for number in chosen]
    idle = [rank for rank in ranks if rank.number not in writing]
    if any(rank.written for rank in idle):
        raise NotOnce("a rank that is no first replica writes")
    figures: dict[str, Any] = {
        "samples": check_samples_once(config, data_parallel_size, 4),
        "numbers": check_written_once(parts_of(ranks)),
        "optimizer numbers": sum(rank.optimizer_shares for rank in ranks if rank.written),
    }
    planned, compared = plan_checkpoint(ranks), compare_shards(ranks, size)
    first = ranks[0]
    rows = {
        "built": f"{len(ranks)} ranks, {max(rank.seconds for rank in ranks):.1f} s each at the most",
        "samples": f"{figures['samples']:,} of 4 steps, each read by one rank",
        "checkpoint": f"{figures['numbers']:,} numbers, each written by one rank",
        "optimizer": f"the state of every number is on one of {data_parallel_size:,} ranks",
        "groups": f"{first.groups:,} process groups are made",
        "start-up": ", ".join(f"{name} {count}" for name, count in sorted(first.collectives.items()))
        or "none",
        "planning": f"{_of(planned)} on rank 0, {planned.items:,} items",
        "memory": f"{_peak() / 2**30:.2f} GiB, the most that this process has taken",
        "comparing": f"{_of(compared)} on every rank to compare all {compared.items:,} shards",
    }
    for name, value in rows.items():
        print(f"  {name:11} {value}", flush=True)
    record(
        options.json, benchmark="scale", ranks=size, **layout, groups=first.groups,
        collectives=sum(first.collectives.values()), planning_s=planned.seconds, planning_bytes=planned.grown,
        comparing_s=compared.seconds, comparing_bytes=compared.grown,
    )  # fmt: skip
