"""Which runs' steps can be recorded; what cannot is refused where it is asked for."""

from __future__ import annotations

import pytest

from recipes.config.cuda_graph import obstacle
from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError

RUN = ["experiment=quickstart", "dry_run=true"]
OBSTACLES = {
    "tensor_model_parallel_size=2": ["parallel.tensor_model_parallel_size=2", "parallel.world_size=2"],
    "pipeline_model_parallel_size=2": ["parallel.pipeline_model_parallel_size=2", "parallel.world_size=2"],
    "context_parallel_size=2": ["parallel.context_parallel_size=2", "parallel.world_size=2"],
    "overlap_grad_reduce=true": ["parallel.overlap_grad_reduce=true"],
    "num_moe_experts": ["model=tiny_param_moe"],
    "dropout or noise": ["model.hidden_dropout=0.1"],
    "recompute_granularity=selective": ["parallel.recompute_granularity=selective"],
    "cuda_graph_impl=local": ["+model.megatron.cuda_graph_impl=local"],
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_what_stands_in_the_way(reason: str) -> None:
    config = compose("pretrain", [*RUN, *OBSTACLES[reason]])
    assert reason in (obstacle(config) or "")
    validate_pretrain(config)  # auto: the run goes without.
    asked = compose("pretrain", [*RUN, *OBSTACLES[reason], "trainer.cuda_graph=true"])
    with pytest.raises(UserError, match=rf"trainer.cuda_graph=True: not possible with .*{reason}.*auto"):
        validate_pretrain(asked)


@pytest.mark.parametrize("settings", [[], ["model=tiny_gemma3"], ["model=tiny_nano_hindi", "optim=muon"]])
def test_nothing_stands_in_the_way(settings: list[str]) -> None:
    config = compose("pretrain", [*RUN, *settings, "trainer.cuda_graph=true"])
    assert obstacle(config) is None
    validate_pretrain(config)


def test_other_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.cuda_graph=maybe: must be true, false or auto"):
        validate_pretrain(compose("pretrain", [*RUN, "trainer.cuda_graph=maybe"]))
