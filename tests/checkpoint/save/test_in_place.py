"""The optimizer's state as every rank describes its own part of it, against what megatron-core gathers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.corpus import TinyData
from tests.support.gathered_form import gathering_case
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case

Part = tuple[str, tuple[int, ...], tuple[int, ...], Tensor]
"""Key, the whole's shape, offset, numbers."""


def described(overrides: list[str]) -> tuple[list[Part], list[Part], bool]:
    """After two steps: what this rank would write, as gathered and by itself; whether the latter lies in the
    optimizer's memory."""
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from lightning.pytorch import Callback
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, is_main_replica
    from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess

    import recipes.training.fit as training
    from recipes.checkpoint.save.in_place import in_place
    from recipes.checkpoint.save.training_state import OPTIMIZER_METADATA
    from recipes.config.hydra_app import compose
    from recipes.training.run import pretrain

    found: list[Any] = []

    class Look(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            optimizer, model = pl_module.megatron_optimizer, pl_module.gpt.sharded_state_dict()

            def written() -> list[ShardedTensor]:
                state = optimizer.sharded_state_dict(model, metadata=OPTIMIZER_METADATA)
                shards = nested_values(save_preprocess(state, True)[0])
                return [s for s in shards if isinstance(s, ShardedTensor) and is_main_replica(s.replica_id)]

            found.append([as_part(shard) for shard in written()])
            with in_place(optimizer):
                own = written()
            inner = [part.optimizer for part in optimizer.chained_optimizers]
            memory = {
                tensor.untyped_storage().data_ptr()
                for each in inner
                for parameter, state in each.state.items()
                for tensor in (parameter, *state.values())
            }
            found.append([as_part(shard) for shard in own])
            found.append(all(shard.data.untyped_storage().data_ptr() in memory for shard in own))

    def as_part(shard: Any) -> Part:
        data = shard.data.detach().clone().view((1,) * shard.prepend_axis_num + tuple(shard.local_shape))
        return shard.key, tuple(shard.global_shape), tuple(shard.global_offset), data

    make = training._trainer

    def with_look(*args: Any) -> Any:
        trainer: Any = make(*args)
        trainer.callbacks.append(Look())
        return trainer

    training._trainer = with_look
    assert pretrain(compose("pretrain", overrides)) == 0
    gathered, own, in_memory = found
    return gathered, own, in_memory


def assembled(ranks: list[list[Part]]) -> dict[str, Tensor]:
    """Key -> the whole tensor, of which every number is written once."""
    wholes: dict[str, Tensor] = {}
    times: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for key, shape, offset, data in (part for parts in ranks for part in parts):
        whole = wholes.setdefault(key, torch.full(shape, torch.nan))
        box = tuple(slice(a, a + size) for a, size in zip(offset, data.shape, strict=True))
        whole[box] = data
        times[key] = times[key].expand(shape).clone()
        times[key][box] += 1
    assert all(bool((count == 1).all()) for count in times.values())
    return wholes


@pytest.mark.parametrize(
    "world, changes",
    [
        (1, {}),
        (1, {"trainer__precision": "bf16"}),
        (2, {"trainer__precision": "bf16"}),
        (3, {"trainer__global_batch_size": "6"}),
        pytest.param(4, {"parallel__tensor_model_parallel_size": "2"}, marks=pytest.mark.slow),
        pytest.param(4, {"parallel__pipeline_model_parallel_size": "2"}, marks=pytest.mark.slow),
    ],
)
def test_all_parts_together_are_what_megatron_core_gathers(
    world: int, changes: dict[str, str], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Any
) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        trainer__max_steps="2",
        optim__groups="[{pattern: '*norm*', weight_decay: 0.0}]",
        **changes,
    )
    ranks = gloo_pool.run(world, described, settings)
    gathered, own = assembled([rank[0] for rank in ranks]), assembled([rank[1] for rank in ranks])
    assert {key.split(".")[2] for key in own} == {"param", "exp_avg", "exp_avg_sq"}
    assert own.keys() == gathered.keys() and len(own) > 3 * 5
    assert [key for key, whole in own.items() if not whole.equal(gathered[key])] == []
    assert all(in_memory for _, _, in_memory in ranks)
    assert all(parts for _, parts, _ in ranks), "every rank writes"


def test_a_gathered_checkpoint_is_resumed_to_the_bit(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Any
) -> None:
    def settings(directory: str, steps: int) -> list[str]:
        return tiny_data.overrides(
            output_dir=str(tmp_path / directory),
            save_nemo="false",
            data__valid="{}",
            trainer__max_steps=str(steps),
            trainer__micro_batch_size="1",
        )

    whole = gloo_pool.run(2, run_case, settings("whole", 6))[0]
    gathered = gloo_pool.run(2, gathering_case, settings("resumed", 3))[0]
    assert gathered.code == 0
    (checkpoint,) = (tmp_path / "resumed" / "tiny" / "checkpoints").iterdir()
    assert [file.name for file in checkpoint.glob("*.distcp")] == ["__0_0.distcp"], (
        "one rank writes all of it"
    )
    resumed = gloo_pool.run(2, run_case, settings("resumed", 6))[0]
    assert len(resumed.losses) == 6 and resumed.losses == whole.losses
    names = {file.name for file in (checkpoint.parent / "step_00000006").glob("*.distcp")}
    assert names == {"__0_0.distcp", "__1_0.distcp"}
