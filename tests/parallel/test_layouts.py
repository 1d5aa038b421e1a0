"""Every layout repeats the single process's run, on real processes under gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cases import nemo_logits, pretrain_case
from tests.support.corpus import TinyData
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool


def losses(metrics: list[dict[str, Any]]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in metrics if "loss" in record}


def grad_norms(metrics: list[dict[str, Any]]) -> dict[int, float]:
    return {record["step"]: record["grad_norm"] for record in metrics if "loss" in record}


def run_layout(
    pool: GlooPool, data: TinyData, output_dir: Path, layout: str, **changes: str
) -> list[dict[str, Any]]:
    world_size, overrides = LAYOUTS[layout] if layout != "single" else (1, ["parallel=single"])
    changes = {"save_nemo": "false", **changes}
    settings = data.overrides(output_dir=str(output_dir), **changes)
    results = pool.run(world_size, pretrain_case, [*settings, *overrides])
    assert [code for code, _ in results] == [0] * world_size
    return results[0][1]


# Tied and untied embeddings differ where they meet the pipeline; TP is in TP + SP. The rest is slow tests.
CASES = [
    pytest.param(
        tied,
        layout,
        marks=() if (tied == "true" or layout == "pp2") and layout != "tp2" else pytest.mark.slow,
    )
    for tied in ("true", "false")
    for layout in LAYOUTS
]


@pytest.fixture(scope="module")
def tied(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def single(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: Any, tied: str
) -> list[dict[str, Any]]:
    return run_layout(
        gloo_pool,
        tiny_data,
        tmp_path_factory.mktemp("single"),
        "single",
        model__share_embeddings_and_output_weights=tied,
    )


@pytest.mark.parametrize(("tied", "layout"), CASES, indirect=["tied"], scope="module")
def test_layout_repeats_the_single_process(
    layout: str,
    single: list[dict[str, Any]],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
    tied: str,
) -> None:
    metrics = run_layout(
        gloo_pool, tiny_data, tmp_path, layout, model__share_embeddings_and_output_weights=tied
    )
    expected = losses(single)
    assert len(expected) == 20 and expected[20] < expected[1] - 0.5, "the model must have learned something"
    assert losses(metrics) == pytest.approx(expected, rel=1e-4)
    assert grad_norms(metrics) == pytest.approx(grad_norms(single), rel=1e-3)
    valid = [record for record in metrics if "valid.hi.loss" in record][-1]
    expected_valid = [record for record in single if "valid.hi.loss" in record][-1]
    for key in ("valid.en.loss", "valid.hi.loss", "valid.hi.bits_per_byte"):
        assert valid[key] == pytest.approx(expected_valid[key], rel=1e-4)


@pytest.mark.parametrize(
    "second",
    [pytest.param("single", marks=pytest.mark.slow), "tp2_sp", pytest.param("dp2", marks=pytest.mark.slow)],
)
def test_checkpoint_of_tp2_pp2_continues_under_another_layout(
    second: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    whole = run_layout(gloo_pool, tiny_data, tmp_path / "whole", "single")
    run_layout(gloo_pool, tiny_data, tmp_path, "tp2_pp2", trainer__max_steps="10")
    metrics = run_layout(gloo_pool, tiny_data, tmp_path, second)
    assert {"event": "resumed", "step": 10, "checkpoint": "step_00000010"} in metrics
    assert losses(metrics) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.slow
def test_resharding_from_the_single_process(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    whole = run_layout(gloo_pool, tiny_data, tmp_path / "whole", "single")
    run_layout(gloo_pool, tiny_data, tmp_path, "single", trainer__max_steps="10")
    metrics = run_layout(gloo_pool, tiny_data, tmp_path, "tp2_pp2")
    assert losses(metrics) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.slow
def test_the_nemo_file_does_not_show_the_layout(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    tokens = [list(range(5, 37)), list(range(300, 332))]
    logits = {}
    for layout in ("single", "tp2_pp2"):
        changes = {"save_nemo": "true", "trainer__max_steps": "5"}
        run_layout(gloo_pool, tiny_data, tmp_path / layout, layout, **changes)
        model = tmp_path / layout / "tiny" / "model.nemo"
        (logits[layout],) = gloo_pool.run(1, nemo_logits, str(model), tokens)
    assert np.abs(logits["single"]).max() > 0.1
    np.testing.assert_allclose(logits["tp2_pp2"], logits["single"], rtol=1e-4, atol=1e-5)
