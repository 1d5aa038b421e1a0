"""Volumes of communication, worked out here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.plan.run_plan import on_cluster
from recipes.plan.step_time import step_time
from recipes.plan.traffic import Traffic, layout_groups

CLUSTER: ClusterConfig = compose("cluster", ["cluster=shakti_512xh100"]).cluster
PARAM1: PretrainConfig = compose("pretrain", ["experiment=param1_2p9b"])
PARAM2: PretrainConfig = compose("pretrain", ["experiment=param2_17b_a2p4b"])
NUMBERS = 2_860_648_448


def traffic(
    config: PretrainConfig = PARAM1,
    cluster: ClusterConfig = CLUSTER,
    micro_batch_size: int = 4,
    **layout: Any,
) -> dict[tuple[str, str], Traffic]:
    config = replace(
        config,
        parallel=replace(config.parallel, **layout),
        trainer=replace(config.trainer, micro_batch_size=micro_batch_size),
    )
    config = on_cluster(config, cluster)
    found = step_time(config, cluster, validate_pretrain(config)).traffic
    return {(each.name, each.operation): each for each in found}


def test_data_parallel() -> None:
    """Each rank sends 511/512 of all gradients in fp32 and of all weights in bf16."""
    found = traffic()
    reduced, gathered = found["data parallel", "reduce-scatter"], found["data parallel", "all-gather"]
    assert reduced.bytes == pytest.approx(4 * NUMBERS * 511 / 512)
    assert gathered.bytes == pytest.approx(2 * NUMBERS * 511 / 512)
    assert len(found) == 2 and reduced.group.size == 512 and reduced.group.link == "network"


def test_overlap_hides_all_but_the_last_bucket() -> None:
    hidden, shown = traffic(), traffic(overlap_grad_reduce=False, overlap_param_gather=False)
    for key, each in hidden.items():
        assert 0 < each.exposed < 0.6 * each.seconds
        assert shown[key].exposed == shown[key].seconds
    half = traffic(overlap_param_gather=False)
    assert half["data parallel", "all-gather"].exposed == half["data parallel", "all-gather"].seconds
    assert half["data parallel", "reduce-scatter"] == hidden["data parallel", "reduce-scatter"]


def test_tensor_parallel() -> None:
    """[8192, 2048] in bf16, half of it sent, 10 times a layer; without sequence parallelism 8 times."""
    stream = 2 * 4 * 2048 * 2048
    with_sequence = traffic(tensor_model_parallel_size=2, sequence_parallel=True)
    each = with_sequence["tensor parallel", "reduce-scatter, all-gather"]
    # 2 micro-batches on each of 256 replicas.
    assert each.bytes == 2 * 32 * 10 * stream / 2
    assert each.group.link == "NVLink" and each.exposed < each.seconds
    plain = traffic(tensor_model_parallel_size=2)["tensor parallel", "all-reduce"]
    assert plain.bytes == 2 * 32 * 8 * stream / 2
    full = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    again = traffic(tensor_model_parallel_size=2, **full)["tensor parallel", "all-reduce"]
    assert again.bytes == 2 * 32 * 12 * stream / 2


def test_pipeline_and_context() -> None:
    piped = traffic(pipeline_model_parallel_size=4)["pipeline", "send, receive"]
    # 4 micro-batches there and back, and 3 while the pipeline fills.
    assert piped.bytes == 2 * (4 + 3) * 2 * 4 * 2048 * 2048
    assert piped.group.link == "network"  # Stages are 128 ranks apart.
    cut = traffic(context_parallel_size=2)["context parallel", "all-gather, reduce-scatter"]
    # Keys and values of 8 heads of 128 for 8,192 tokens, half of them the other rank's; 2 micro-batches.
    assert cut.bytes == 2 * 2 * 32 * 2 * 8192 * 2 * 1024 / 2


def test_expert_parallel() -> None:
    """Six copies of each token to 8 ranks, there and back, forward and backward, in 20 layers."""
    config = replace(PARAM2, data=replace(PARAM2.data, seq_length=4096))
    config = replace(config, trainer=replace(config.trainer, global_batch_size=512))
    layout = {"expert_model_parallel_size": 8, "context_parallel_size": 1}
    found = traffic(config, micro_batch_size=1, **layout)
    sent = found["expert parallel", "all-to-all"]
    assert sent.bytes == pytest.approx(4 * 20 * 2 * 4096 * 6 * 2048 * 7 / 8)
    # Experts have 64 replicas, everything else 512.
    assert found["expert data parallel", "reduce-scatter"].group.size == 64
    assert found["data parallel", "reduce-scatter"].group.size == 512


def test_groups_are_placed_as_megatron_core_numbers_ranks() -> None:
    layout = replace(
        PARAM2.parallel,
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=2,
        context_parallel_size=2,
        expert_model_parallel_size=8,
        expert_tensor_parallel_size=1,
    )
    groups = layout_groups(layout, 64, 8)
    sizes = {name: (group.size, group.per_node) for name, group in groups.items()}
    assert sizes == {
        "tensor": (2, 2), "context": (2, 2), "data": (128, 4), "expert": (8, 8), "expert data": (32, 1),
        "pipeline": (2, 1),
    }  # fmt: skip
