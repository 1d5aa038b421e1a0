"""The state of an optimizer of one data-parallel rank: as megatron-core gathers it, but where it lies."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from tests.support.corpus import TinyData
from tests.support.pool import GlooPool


def described(overrides: list[str]) -> list[tuple[str, bool, bool]]:
    """Of each tensor of an optimizer after two steps: its key; as gathered; in the optimizer's memory."""
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from lightning.pytorch import Callback
    from megatron.core.dist_checkpointing.dict_utils import nested_values

    import recipes.training.fit as training
    from recipes.checkpoint.save.in_place import in_place
    from recipes.checkpoint.save.training_state import OPTIMIZER_METADATA
    from recipes.config.hydra_app import compose
    from recipes.training.run import pretrain

    found: list[tuple[str, bool, bool]] = []

    class Look(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            optimizer, model = pl_module.megatron_optimizer, pl_module.gpt.sharded_state_dict()
            gathered = list(nested_values(optimizer.sharded_state_dict(model, metadata=OPTIMIZER_METADATA)))
            with in_place(optimizer):
                own = list(nested_values(optimizer.sharded_state_dict(model, metadata=OPTIMIZER_METADATA)))
            inner = [part.optimizer for part in optimizer.chained_optimizers]
            memory = {
                tensor.untyped_storage().data_ptr()
                for each in inner
                for parameter, state in each.state.items()
                for tensor in (parameter, *state.values())
            }
            for ours, theirs in zip(own, gathered, strict=True):
                if isinstance(getattr(ours, "data", None), Tensor):
                    same = ours.data.dtype == theirs.data.dtype and ours.data.equal(theirs.data)
                    same = same and (ours.key, ours.replica_id) == (theirs.key, theirs.replica_id)
                    found.append((ours.key, same, ours.data.untyped_storage().data_ptr() in memory))

    make = training._trainer

    def with_look(*args: Any) -> Any:
        trainer: Any = make(*args)
        trainer.callbacks.append(Look())
        return trainer

    training._trainer = with_look
    assert pretrain(compose("pretrain", overrides)) == 0
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_state_is_described_where_it_lies(
    precision: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Any
) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        trainer__max_steps="2",
        trainer__precision=precision,
        optim__groups="[{pattern: '*norm*', weight_decay: 0.0}]",
    )
    (found,) = gloo_pool.run(1, described, settings)
    assert {key.split(".")[2] for key, _, _ in found} == {"param", "exp_avg", "exp_avg_sq"}
    assert len(found) > 3 * 10
    assert [key for key, same, own in found if not (same and own)] == []
