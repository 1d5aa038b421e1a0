"""A planned step against a schedule played through here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.plan.run_plan import on_cluster
from recipes.plan.step_time import StepTime, bubble_share, step_time

CLUSTER = compose("cluster", ["cluster=shakti_512xh100", "cluster.nodes=1"]).cluster
PARAM1: PretrainConfig = compose("pretrain", ["experiment=param1_2p9b"])


def one_forward_one_backward(stages: int, micro_batches: int, forward: float, backward: float) -> float:
    """Seconds until the last gradient is there, with 1F1B's order on each of equal stages."""
    orders = []
    for stage in range(stages):
        ahead = min(stages - stage - 1, micro_batches)
        order = [("F", number) for number in range(ahead)]
        for number in range(micro_batches - ahead):
            order += [("F", ahead + number), ("B", number)]
        orders.append(order + [("B", number) for number in range(micro_batches - ahead, micro_batches)])
    done: dict[tuple[str, int, int], float] = {}
    clocks, places = [0.0] * stages, [0] * stages
    while any(place < len(order) for place, order in zip(places, orders, strict=True)):
        for stage in range(stages):
            if places[stage] == len(orders[stage]):
                continue
            kind, number = orders[stage][places[stage]]
            before = (kind, number, stage - 1 if kind == "F" else stage + 1)
            edge = stage == (0 if kind == "F" else stages - 1)
            if not edge and before not in done:
                continue
            start = max(clocks[stage], 0.0 if edge else done[before])
            clocks[stage] = start + (forward if kind == "F" else backward)
            done[kind, number, stage] = clocks[stage]
            places[stage] += 1
    return max(clocks)


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 2), (4, 4), (4, 16), (8, 8), (8, 64)])
def test_the_bubble_is_that_of_1f1b(stages: int, micro_batches: int) -> None:
    seconds = one_forward_one_backward(stages, micro_batches, 1.0, 2.0)
    work = 3.0 * micro_batches
    assert seconds / work - 1 == pytest.approx(bubble_share(stages, micro_batches))
    assert bubble_share(stages, micro_batches, 2) == bubble_share(stages, micro_batches) / 2


def planned(**layout: int) -> StepTime:
    config = replace(PARAM1, parallel=replace(PARAM1.parallel, **layout))
    config = replace(config, trainer=replace(config.trainer, global_batch_size=256))
    config = on_cluster(config, CLUSTER)
    return step_time(config, CLUSTER, validate_pretrain(config))


def test_parts_make_up_the_step() -> None:
    step = planned()
    tokens = 256 * 2048 / 8
    assert step.tokens_per_second == pytest.approx(tokens / step.seconds)
    assert step.mfu == pytest.approx(step.tokens_per_second * 15_628_001_280 / 989e12, rel=1e-3)
    assert step.bubble == step.recomputation == 0
    assert step.communication == pytest.approx(sum(each.exposed for each in step.traffic))


def test_stages_wait_for_the_slowest() -> None:
    """The last of 4 stages has the head, which is worth 9 layers, beside its 8."""
    piped = planned(pipeline_model_parallel_size=4)
    assert piped.bubble > 0
    balanced = planned(
        pipeline_model_parallel_size=4, num_layers_in_first_pipeline_stage=11,
        num_layers_in_last_pipeline_stage=1,
    )  # fmt: skip
    assert balanced.seconds < 0.8 * piped.seconds
