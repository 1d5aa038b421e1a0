"""Muon and AdamW under every layout: one run, and checkpoints that go from one layout to another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import pretrain_case
from tests.support.corpus import TinyData
from tests.support.norms import assert_same_norms
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

LAYOUTS = {
    "single": (1, "single"),
    "dp2": (2, "single"),
    "tp2": (2, "tp2"),
    "tp2_sp": (2, "tp2_sp"),
    "tp2_pp2": (4, "tp2_pp2"),
}
STEPS, HALF = 14, 7
# Rates for a model of 64 channels that trains so few steps.
MUON = ["optim=muon", "optim.embedding_lr=0.02"]
# Experts: a shared one and routed ones, in every layer but the first.
MOE = [
    "model.num_moe_experts=4",
    "model.moe_ffn_hidden_size=32",
    "model.first_k_dense_replace=1",
    "model.moe_shared_expert_intermediate_size=32",
    "model.moe_aux_loss_coeff=0.01",
]
EXPERT_LAYOUTS = {
    "single": (1, []),
    "ep2": (2, ["parallel.expert_model_parallel_size=2"]),
    "tp2_sp": (2, ["parallel=tp2_sp"]),
    # One data-parallel rank for the dense part, two for the experts.
    "tp2_sp_whole_experts": (2, ["parallel=tp2_sp", "parallel.expert_tensor_parallel_size=1"]),
}

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(gloo_pool: GlooPool, tiny_data: TinyData) -> Run:
    def run(
        directory: Path, layout: str, *overrides: str, tied: bool = False, **changes: str
    ) -> list[dict[str, Any]]:
        world_size, parallel = LAYOUTS[layout]
        settings = tiny_data.overrides(
            output_dir=str(directory),
            save_nemo="false",
            model__share_embeddings_and_output_weights=str(tied).lower(),
            **{"trainer__max_steps": str(STEPS), "trainer__log_details_every_n_steps": "4"} | changes,
        )
        head = "optim.head_lr=null" if tied else "optim.head_lr=0.004"
        overrides = (*settings, *MUON, head, f"parallel={parallel}", *overrides)
        results = gloo_pool.run(world_size, pretrain_case, list(overrides))
        assert [code for code, _ in results] == [0] * world_size
        return results[0][1]

    return run


def column(metrics: list[dict[str, Any]], key: str) -> dict[int, float]:
    return {record["step"]: record[key] for record in metrics if "loss" in record}


@dataclass(frozen=True)
class Single:
    """A run on one process that saved half-way too."""

    directory: Path
    metrics: list[dict[str, Any]]

    def half(self, tmp_path: Path, step: int = HALF) -> Path:
        """A copy that has come to ``step`` only."""
        shutil.copytree(self.directory, tmp_path, dirs_exist_ok=True)
        (tmp_path / "tiny" / "metrics.jsonl").unlink()
        last, saved = sorted((tmp_path / "tiny" / "checkpoints").iterdir(), reverse=True)
        assert saved.name == f"step_{step:08}"
        shutil.rmtree(last)
        return tmp_path


@pytest.fixture(scope="module")
def singles(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Single]:
    """The run on one process with the head tied and not."""
    out = {}
    for tied in (False, True):
        directory = tmp_path_factory.mktemp("single")
        metrics = run(directory, "single", tied=tied, trainer__checkpoint__every_n_steps=str(HALF))
        out[tied] = Single(directory, metrics)
    return out


# With a tied head on another pipeline stage than the table, it is that table's copy.
@pytest.mark.parametrize(
    ("layout", "tied"),
    [
        ("dp2", False),
        pytest.param("tp2", False, marks=pytest.mark.slow),
        pytest.param("tp2_sp", False, marks=pytest.mark.slow),
        pytest.param("tp2_pp2", True, marks=pytest.mark.slow),
    ],
)
def test_layout_repeats_the_single_process(
    layout: str, tied: bool, singles: dict[bool, Single], run: Run, tmp_path: Path
) -> None:
    metrics, single = run(tmp_path, layout, tied=tied), singles[tied].metrics
    expected = column(single, "loss")
    assert len(expected) == STEPS and expected[STEPS] < expected[1] - 1.5, (
        "the model must have learned something"
    )
    assert column(metrics, "loss") == pytest.approx(expected, rel=1e-5)
    assert column(metrics, "grad_norm") == pytest.approx(column(single, "grad_norm"), rel=1e-3)
    assert_same_norms(metrics, single)
    # What is logged is the matrices' rate: cosine from 0.02 after 2 steps of warm-up.
    assert column(metrics, "lr")[3] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("first", "second", "tied"),
    [
        pytest.param("single", "single", False, marks=pytest.mark.slow),
        ("single", "dp2", False),
        ("dp2", "tp2", False),
        ("tp2_pp2", "single", True),
    ],
)
def test_checkpoint_continues_under_another_layout(
    first: str,
    second: str,
    tied: bool,
    singles: dict[bool, Single],
    run: Run,
    tmp_path: Path,
) -> None:
    if first == "single":
        singles[tied].half(tmp_path)
    else:
        run(tmp_path, first, tied=tied, trainer__max_steps=str(HALF))
    metrics = run(tmp_path, second, tied=tied)
    assert {"event": "resumed", "step": HALF, "checkpoint": f"step_{HALF:08}"} in metrics
    tolerance = 0 if first == second else 1e-5
    expected = column(singles[tied].metrics, "loss")
    for step in range(HALF + 1, STEPS + 1):
        assert column(metrics, "loss")[step] == pytest.approx(expected[step], rel=tolerance)


@pytest.mark.slow
def test_bfloat16_resumes_exactly(run: Run, tmp_path: Path) -> None:
    """The float32 copies of the weights are in the checkpoint, in one with two owners too."""
    precision = "trainer.precision=bf16"
    whole = column(run(tmp_path / "whole", "dp2", precision), "loss")
    run(tmp_path, "dp2", precision, trainer__max_steps=str(HALF))
    assert column(run(tmp_path, "dp2", precision), "loss") == whole
    assert whole[STEPS] < whole[1] - 1.5
    alone = column(run(tmp_path / "alone", "single", precision), "loss")
    assert alone == pytest.approx(whole, rel=2e-3)


def test_rates_may_change_on_the_way(singles: dict[bool, Single], run: Run, tmp_path: Path) -> None:
    """The present configuration counts, not what the checkpoint's groups had."""
    singles[False].half(tmp_path)
    slow = ["optim.lr=1e-9", "optim.embedding_lr=1e-9", "optim.head_lr=1e-9", "optim.scalar_lr=1e-9"]
    constant = {"optim__lr_decay_style": "constant", "optim__lr_decay_steps": "null"}
    losses = column(run(tmp_path, "single", *slow, **constant), "loss")
    moving = [losses[step] for step in range(HALF + 2, STEPS + 1)]
    assert max(moving) - min(moving) < 0.5  # Other batches, the same weights.
    assert min(moving) > losses[HALF + 1] - 0.5


@pytest.mark.parametrize(("first", "second"), [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimizers_checkpoint_is_refused(
    first: str, second: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    def outcome(optimizer: str, steps: str) -> Outcome:
        settings = tiny_data.overrides(
            output_dir=str(tmp_path),
            save_nemo="false",
            trainer__max_steps=steps,
            model__share_embeddings_and_output_weights="false",
        )
        (result,) = gloo_pool.run(1, run_case, [*settings, f"optim={optimizer}"])
        return result

    assert outcome(first, "2").code == 0
    refused = outcome(second, "4")
    assert refused.code == 2 and "does not fit" in refused.message and "\n" not in refused.message


TrainExperts = Callable[[Path, str, int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def train_experts(gloo_pool: GlooPool, tiny_data: TinyData) -> TrainExperts:
    def train(directory: Path, layout: str, steps: int) -> list[dict[str, Any]]:
        world_size, parallel = EXPERT_LAYOUTS[layout]
        settings = tiny_data.overrides(
            output_dir=str(directory),
            save_nemo="false",
            trainer__max_steps=str(steps),
            trainer__checkpoint__every_n_steps="6",
            model__share_embeddings_and_output_weights="false",
        )
        results = gloo_pool.run(world_size, pretrain_case, [*settings, *MUON, *MOE, *parallel])
        assert [code for code, _ in results] == [0] * world_size
        return results[0][1]

    return train


@pytest.fixture(scope="module")
def single_experts(train_experts: TrainExperts, tmp_path_factory: pytest.TempPathFactory) -> Single:
    directory = tmp_path_factory.mktemp("single_experts")
    return Single(directory, train_experts(directory, "single", 12))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        "ep2",
        "tp2_sp",
        "tp2_sp_whole_experts",
    ],
)
def test_experts(layout: str, single_experts: Single, train_experts: TrainExperts, tmp_path: Path) -> None:
    """Every expert is a matrix of its own, wherever it is; a checkpoint goes there and back."""
    whole = single_experts.metrics
    assert column(whole, "loss")[12] < column(whole, "loss")[1] - 1
    directory = single_experts.half(tmp_path, 6)
    train_experts(directory, layout, 9)
    metrics = train_experts(directory, "single", 12)
    assert [record["step"] for record in metrics if record.get("event") == "resumed"] == [6, 9]
    # Were experts counted twice, the norm would be off by one part in a thousand.
    for key in ("loss", "grad_norm"):
        found = column(metrics, key)
        assert sorted(found) == list(range(7, 13))
        assert found == pytest.approx({step: column(whole, key)[step] for step in found}, rel=1e-4)
