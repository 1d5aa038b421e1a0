"""Optimizer settings that contradict each other, the model or the layout are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.config.hydra_app import compose
from recipes.config.lengths import Clock
from recipes.config.optim_schema import GroupConfig
from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.config.timeline import even_timeline
from recipes.config.validate import validate_pretrain
from recipes.config.validate_optim import validate_optim, validate_schedule
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig

SIZES: dict[str, int] = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4}
SIZES |= {"vocab_size": 250, "max_position_embeddings": 64}
UNTIED = ModelConfig(**SIZES, share_embeddings_and_output_weights=False)  # type: ignore[arg-type]
TIED = ModelConfig(share_embeddings_and_output_weights=True)
MUON = {"name": "muon"}
WSD = {"lr_decay_style": "WSD"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"z_loss_coeff": -1e-4}, "optim.z_loss_coeff=-0.0001: must not be negative"),
    (
        {"groups": [GroupConfig("encoder.*", lr=0.1)]},
        "optim.groups[0].pattern=encoder.*: matches no parameter; they are called like decoder.layers.0.",
    ),
    (
        {"groups": [GroupConfig("*.linear_qkv.*", lr=0.1), GroupConfig("decoder.*", weight_decay=0.0)]},
        "optim.groups[1].pattern=decoder.*: takes decoder.layers.0.self_attention.linear_qkv.layer_norm_"
        "weight, which optim.groups[0].pattern=*.linear_qkv.* takes too",
    ),
    ({"groups": [GroupConfig("*", lr=-0.1)]}, "optim.groups[0].lr=-0.1: must not be negative"),
    (
        {"groups": [GroupConfig("*", weight_decay=-1)]},
        "optim.groups[0].weight_decay=-1: must not be negative",
    ),
    (
        {"groups": [GroupConfig("*", lr=0.1, lr_mult=2.0)]},
        "optim.groups[0].lr_mult=2.0: optim.groups[0].lr=0.1 says it already; leave one of both out",
    ),
    ({"groups": [GroupConfig("*")]}, "optim.groups[0].pattern=*: nothing is different; give lr, lr_mult or"),
    ({"name": "sgd"}, "optim.name=sgd: choose one of adamw, muon"),
    ({"embedding_lr": 0.0}, "optim.embedding_lr=0.0: must be positive"),
    ({"head_lr": -1.0}, "optim.head_lr=-1.0: must be positive"),
    ({"scalar_lr": 0.1}, "optim.scalar_lr=0.1: would be ignored: optim.name is not muon"),
    ({"muon_momentum": 0.9}, "optim.muon_momentum=0.9: would be ignored: optim.name is not muon"),
    ({"muon_num_iterations": 6}, "optim.muon_num_iterations=6: would be ignored"),
    ({"muon_beta2": 0.9}, "optim.muon_beta2=0.9: would be ignored"),
    (MUON | {"scalar_lr": 0.0}, "optim.scalar_lr=0.0: must be positive"),
    (MUON | {"muon_momentum": 1.0}, "optim.muon_momentum=1.0: must be at least 0 and below 1"),
    (MUON | {"muon_beta2": -0.1}, "optim.muon_beta2=-0.1: must be at least 0 and below 1"),
    (MUON | {"muon_num_iterations": 0}, "optim.muon_num_iterations=0: must be 1 to 7"),
    (MUON | {"muon_num_iterations": 8}, "optim.muon_num_iterations=8: must be 1 to 7"),
    ({"lr_warmup_tokens": 0}, "optim.lr_warmup_tokens=0: must be positive"),
    ({"lr_decay_tokens": -5}, "optim.lr_decay_tokens=-5: must be positive"),
    (
        {"lr_warmup_tokens": 10, "lr_warmup_steps": 3},
        "optim.lr_warmup_tokens=10: optim.lr_warmup_steps=3 says the same; set that to 0, or leave this out",
    ),
    (
        {"lr_decay_tokens": 10, "lr_decay_steps": 3},
        "optim.lr_decay_tokens=10: optim.lr_decay_steps=3 says the same; set that to null, or leave this out",
    ),
    (
        WSD | {"lr_wsd_decay_tokens": 10, "lr_wsd_decay_steps": 3},
        "optim.lr_wsd_decay_tokens=10: optim.lr_wsd_decay_steps=3 says the same",
    ),
    ({"lr_wsd_decay_tokens": 10}, "optim.lr_wsd_decay_tokens=10: would be ignored: needs lr_decay_style=WSD"),
    ({"lr_wsd_decay_style": "cosine"}, "optim.lr_wsd_decay_style=cosine: would be ignored: needs lr_decay"),
    (
        {"lr_decay_style": "constant", "lr_decay_steps": 5},
        "optim.lr_decay_steps=5: would be ignored: lr_decay_style=constant never decays; set it to null",
    ),
    (
        {"lr_decay_style": "constant", "lr_decay_tokens": 500},
        "optim.lr_decay_tokens=500: would be ignored: lr_decay_style=constant never decays; set it to null",
    ),
    # 100 tokens are a step here: 901 are 10 steps, as many as the whole decay.
    (
        {"lr_warmup_tokens": 901, "lr_decay_steps": 10},
        "optim.lr_warmup_tokens=901: must be below lr_decay_steps=10",
    ),
    (
        WSD | {"lr_wsd_decay_tokens": 801, "lr_decay_tokens": 1000, "lr_warmup_steps": 2},
        "optim.lr_wsd_decay_tokens=801: must be at most lr_decay_tokens - lr_warmup_steps = 8 steps",
    ),
]


def validate(model: ModelConfig = UNTIED, parallel: ParallelConfig | None = None, **settings: Any) -> None:
    optim = OptimConfig(**{"lr": 1e-3, **settings})
    validate_optim(optim, model, parallel or ParallelConfig())
    validate_schedule("optim", optim, Clock(even_timeline(10, 1, 10)))


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(**settings)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_tied_head_has_no_rate(name: str) -> None:
    with pytest.raises(
        UserError, match=r"optim\.head_lr=0\.004: would be ignored: .* set optim\.head_lr=null"
    ):
        validate(TIED, name=name, head_lr=0.004)
    validate(TIED, name=name, embedding_lr=0.004)
    validate(UNTIED, name=name, head_lr=0.004)


def test_muon_has_no_parameter_gather() -> None:
    parallel = ParallelConfig(overlap_grad_reduce=True, overlap_param_gather=True)
    with pytest.raises(UserError, match=r"parallel\.overlap_param_gather=True: would be ignored"):
        validate(parallel=parallel, name="muon")
    validate(parallel=ParallelConfig(overlap_grad_reduce=True), name="muon")


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_warmup_tokens": 900, "lr_decay_steps": 10},
        {**WSD, "lr_wsd_decay_tokens": 800, "lr_decay_tokens": 1000, "lr_warmup_steps": 2},
        {**MUON, "muon_num_iterations": 7, "muon_momentum": 0.0, "muon_beta2": 0.0, "scalar_lr": 0.1},
        {"embedding_lr": 0.2, "head_lr": 0.1},
        {**WSD, "lr_wsd_decay_style": "cosine"},
        {"lr_wsd_decay_style": "linear"},
        {"lr_decay_style": "constant", "lr_warmup_steps": 5},
    ],
)
def test_accepted(settings: dict[str, Any]) -> None:
    validate(**settings)


def test_the_shipped_file() -> None:
    """conf/optim/muon.yaml has the published rates, and goes through the whole validation."""
    config = compose(
        "pretrain",
        [
            "name=x",
            "optim=muon",
            "model.share_embeddings_and_output_weights=false",
            "data.seq_length=64",
            "trainer.max_steps=3",
            "dry_run=true",
        ],
    )
    assert validate_pretrain(config) == 1
    optim = config.optim
    assert (optim.lr, optim.embedding_lr, optim.head_lr) == (0.02, 0.2, 0.004)
    assert (optim.muon_momentum, optim.muon_num_iterations) == (0.95, 5)
