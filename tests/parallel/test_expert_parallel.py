"""Mixtures of experts under every layout repeat their run on a single process, balancing losses included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig
from tests.support.corpus import TinyData
from tests.support.expert_cases import initial_experts, pretrain_with_equal_noise, router_noise
from tests.support.norms import assert_same_norms
from tests.support.pool import GlooPool

# Coefficients at which a balancing loss that weighs too much or too little changes the gradient visibly.
FAMILIES = {
    "param2": [
        "optim.lr=2e-3",
        "model=tiny_param2_moe",
        "model.moe_aux_loss_coeff=0.3",
        "model.moe_z_loss_coeff=0.1",
        "model.moe_router_bias_update_rate=0.02",
    ],
    "param_moe": ["model=tiny_param_moe", "model.moe_importance_loss_coeff=0.5"],
}
EP2, WHOLE_EXPERTS = "parallel.expert_model_parallel_size=2", "parallel.expert_tensor_parallel_size=1"
LAYOUTS = {
    "single": (1, []),
    "dp2": (2, []),
    "cp2": (2, ["parallel.context_parallel_size=2"]),
    "ep2": (2, [EP2]),
    "tp2_sp": (2, ["parallel=tp2_sp"]),
    "tp2_sp_whole_experts": (2, ["parallel=tp2_sp", WHOLE_EXPERTS]),
    "tp2_sp_ep2": (2, ["parallel=tp2_sp", EP2, WHOLE_EXPERTS]),
    # The first stage of param2 has no experts at all.
    "pp2_uneven": (2, ["parallel=pp2", "parallel.num_layers_in_first_pipeline_stage=1"]),
    "tp2_sp_dp2_ep2": (4, ["parallel=tp2_sp", EP2, WHOLE_EXPERTS]),
}
CASES = [
    pytest.param("param2", "dp2", marks=pytest.mark.slow),
    pytest.param("param2", "cp2", marks=pytest.mark.slow),
    ("param2", "ep2"),
    pytest.param("param2", "tp2_sp", marks=pytest.mark.slow),
    ("param2", "pp2_uneven"),
    pytest.param("param2", "tp2_sp_dp2_ep2", marks=pytest.mark.slow),
    pytest.param("param_moe", "dp2", marks=pytest.mark.slow),
    pytest.param("param_moe", "cp2", marks=pytest.mark.slow),
    ("param_moe", "ep2"),
    pytest.param("param_moe", "pp2_uneven", marks=pytest.mark.slow),
    pytest.param("param_moe", "tp2_sp_whole_experts", marks=pytest.mark.slow),
    ("param_moe", "tp2_sp_ep2"),
]
STEPS = 6

Metrics = list[dict[str, Any]]
Run = Callable[..., Metrics]


@pytest.fixture(scope="module")
def run(gloo_pool: GlooPool, tiny_data: TinyData) -> Run:
    def run(family: str, layout: str, output_dir: Path, steps: int = STEPS, *more: str) -> Metrics:
        settings = tiny_data.overrides(
            output_dir=str(output_dir),
            save_nemo="false",
            trainer__max_steps=str(steps),
            trainer__log_details_every_n_steps="2",
        )
        world_size, parallel = LAYOUTS[layout]
        overrides = [*settings, *FAMILIES[family], *parallel, *more]
        results = gloo_pool.run(world_size, pretrain_with_equal_noise, overrides)
        assert [code for code, _ in results] == [0] * world_size
        return results[0][1]

    return run


@pytest.fixture(scope="module")
def single(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Metrics]:
    """The family's run on one process, made once."""
    made: dict[str, Metrics] = {}

    def single(family: str) -> Metrics:
        if family not in made:
            made[family] = run(family, "single", tmp_path_factory.mktemp(family))
        return made[family]

    return single


def assert_same_run(metrics: Metrics, expected: Metrics) -> None:
    steps = [record for record in expected if "loss" in record]
    again = {record["step"]: record for record in metrics if "loss" in record}
    assert len(steps) == STEPS and steps[-1]["loss"] < steps[0]["loss"] - 0.2, (
        "it must have learned something"
    )
    assert_same_norms(metrics, expected)
    assert any(key.startswith("moe.load.layer_") for key in steps[1])
    for record in steps:
        moe = [key for key in record if key.startswith("moe.")]
        other = again[record["step"]]
        assert other["loss"] == pytest.approx(record["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(record["grad_norm"], rel=1e-3)
        for key in moe:
            # One token near the border between two experts may go either way.
            tolerance = 0.02 if "load" in key and key != "moe.load_loss" else 1e-3
            assert other[key] == pytest.approx(record[key], rel=tolerance, abs=1e-6), key


@pytest.mark.parametrize(("family", "layout"), CASES)
def test_layout_repeats_the_single_process(
    family: str, layout: str, run: Run, single: Callable[[str], Metrics], tmp_path: Path
) -> None:
    assert_same_run(run(family, layout, tmp_path), single(family))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layouts"),
    [
        ("param2", ["ep2", "single", "ep2"]),
        ("param2", ["tp2_sp_whole_experts", "single"]),
        ("param_moe", ["pp2_uneven", "tp2_sp_ep2"]),
    ],
    ids=["param2", "param2_whole_experts", "param_moe"],
)
def test_checkpoint_continues_under_another_layout(
    family: str, layouts: list[str], run: Run, single: Callable[[str], Metrics], tmp_path: Path
) -> None:
    """The biases of param2's experts, which follow the load at a high rate, must have been saved too."""
    metrics: Metrics = []
    for number, layout in enumerate(layouts, start=1):
        metrics = run(family, layout, tmp_path, STEPS * number // len(layouts))
    resumed = [record["step"] for record in metrics if record.get("event") == "resumed"]
    assert resumed == [STEPS * number // len(layouts) for number in range(1, len(layouts))]
    assert_same_run(metrics, single(family))


def test_what_is_reported(single: Callable[[str], Metrics]) -> None:
    """Importance, load and balance begin near even; the loss per sequence at about 1."""
    first = {family: next(record for record in single(family) if "loss" in record) for family in FAMILIES}
    assert {key for key in first["param2"] if key.startswith("moe.")} == {
        "moe.seq_aux_loss",
        "moe.z_loss",
        "moe.max_load",
    }
    assert first["param2"]["moe.seq_aux_loss"] == pytest.approx(1.0, abs=0.1)
    assert first["param2"]["moe.z_loss"] == pytest.approx(np.log(8) ** 2, rel=0.3)
    assert 1.0 <= first["param2"]["moe.max_load"] < 8 / 3
    assert {key for key in first["param_moe"] if key.startswith("moe.")} == {
        "moe.importance_loss",
        "moe.load_loss",
        "moe.max_load",
    }
    assert 0 < first["param_moe"]["moe.load_loss"] < 0.5


@pytest.mark.parametrize(
    "model",
    [
        ["model=tiny_param_moe"],
        pytest.param(
            ["model=tiny_param2_moe", "+model.megatron.moe_input_jitter_eps=0.1"], marks=pytest.mark.slow
        ),
        pytest.param(
            ["model=tiny_param2_moe", "+model.megatron.moe_router_force_load_balancing=true"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["param_moe", "jitter", "random_choice"],
)
def test_noise_is_repeated_when_a_run_is_resumed(
    model: list[str], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The routers' real noise depends on the seed and the step alone."""
    from tests.support.cases import pretrain_case

    losses = {}
    for name, ends in (("whole", [4]), ("halves", [2, 4])):
        for end in ends:
            settings = tiny_data.overrides(
                output_dir=str(tmp_path / name), save_nemo="false", trainer__max_steps=str(end)
            )
            ((code, metrics),) = gloo_pool.run(1, pretrain_case, [*settings, *model])
            assert code == 0
        losses[name] = {record["step"]: record["loss"] for record in metrics if "loss" in record}
    assert losses["halves"] == losses["whole"] and sorted(losses["whole"]) == [1, 2, 3, 4]


def test_every_process_has_noise_of_its_own(gloo_pool: GlooPool) -> None:
    first, second = gloo_pool.run(2, router_noise, ParallelConfig(), 3)
    (again,) = gloo_pool.run(1, router_noise, ParallelConfig(), 3)
    (other,) = gloo_pool.run(1, router_noise, ParallelConfig(), 4)
    draws = [*first[0], *second[0], *other[0]]
    for i, draw in enumerate(draws):
        for later in draws[i + 1 :]:
            assert not (draw == later).any()
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], second[1])  # Dropout's own state is not touched by it.


def test_experts_begin_the_same_on_every_layout_and_different_from_each_other(gloo_pool: GlooPool) -> None:
    model = ModelConfig(
        num_layers=2,
        hidden_size=32,
        ffn_hidden_size=64,
        num_attention_heads=4,
        vocab_size=100,
        max_position_embeddings=16,
        num_moe_experts=4,
        moe_ffn_hidden_size=24,
        init_method_std=0.1,
    )
    biased = replace(model, family="param_moe", normalization="LayerNorm", activation="gelu")
    biased = replace(biased, add_bias_linear=True, position_embedding_type="learned_absolute")
    split = ParallelConfig(expert_model_parallel_size=2)
    for described in (model, biased):
        (single,) = gloo_pool.run(1, initial_experts, described, ParallelConfig())
        parts = gloo_pool.run(2, initial_experts, described, split)
        joined = {**parts[0], **parts[1]}
        assert len(joined) == len(parts[0]) + len(parts[1]) and joined.keys() == single.keys()
        for key, values in single.items():
            np.testing.assert_array_equal(joined[key], values)
        matrices = [values for (name, _), values in single.items() if name.endswith("weight")]
        rows = np.concatenate([values[:, :16] for values in matrices])
        assert len(np.unique(rows, axis=0)) == len(rows), "no two experts share a row"
