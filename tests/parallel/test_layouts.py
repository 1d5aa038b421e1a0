"""Every layout repeats the single process's run, on real processes under gloo."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cases import nemo_logits, pretrain_case
from tests.support.corpus import TinyData
from tests.support.layouts import LAYOUTS
from tests.support.norms import assert_same_norms
from tests.support.pool import GlooPool


def losses(metrics: list[dict[str, Any]]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in metrics if "loss" in record}


def grad_norms(metrics: list[dict[str, Any]]) -> dict[int, float]:
    return {record["step"]: record["grad_norm"] for record in metrics if "loss" in record}


STEPS = 8  # At this rate enough to learn something.
SETTINGS = {
    "trainer__max_steps": str(STEPS),
    "trainer__log_details_every_n_steps": "1",
    "optim__lr": "3e-3",
    "save_nemo": "false",
}


def run_layout(
    pool: GlooPool, data: TinyData, output_dir: Path, layout: str, **changes: str
) -> list[dict[str, Any]]:
    world_size, overrides = LAYOUTS[layout] if layout != "single" else (1, ["parallel=single"])
    settings = data.overrides(output_dir=str(output_dir), **SETTINGS | changes)
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
def single(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[dict[str, Any]]]:
    """The run on one process with the head tied or not, made once."""

    @cache
    def single(tied: str) -> list[dict[str, Any]]:
        directory = tmp_path_factory.mktemp("single")
        head = {"model__share_embeddings_and_output_weights": tied}
        return run_layout(gloo_pool, tiny_data, directory, "single", **head)

    return single


@pytest.mark.parametrize(("tied", "layout"), CASES)
def test_layout_repeats_the_single_process(
    tied: str,
    layout: str,
    single: Callable[[str], list[dict[str, Any]]],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    head = {"model__share_embeddings_and_output_weights": tied}
    metrics, whole = run_layout(gloo_pool, tiny_data, tmp_path, layout, **head), single(tied)
    expected = losses(whole)
    assert len(expected) == STEPS and expected[STEPS] < expected[1] - 0.5, "the model must have learned"
    assert losses(metrics) == pytest.approx(expected, rel=1e-4)
    assert grad_norms(metrics) == pytest.approx(grad_norms(whole), rel=1e-3)
    assert_same_norms(metrics, whole)
    valid = [record for record in metrics if "valid.hi.loss" in record][-1]
    expected_valid = [record for record in whole if "valid.hi.loss" in record][-1]
    for key in ("valid.en.loss", "valid.hi.loss", "valid.hi.bits_per_byte"):
        assert valid[key] == pytest.approx(expected_valid[key], rel=1e-4)


@pytest.mark.parametrize(
    "second",
    [pytest.param("single", marks=pytest.mark.slow), "tp2_sp", pytest.param("dp2", marks=pytest.mark.slow)],
)
def test_checkpoint_of_tp2_pp2_continues_under_another_layout(
    second: str,
    single: Callable[[str], list[dict[str, Any]]],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    run_layout(gloo_pool, tiny_data, tmp_path, "tp2_pp2", trainer__max_steps=str(STEPS // 2))
    metrics = run_layout(gloo_pool, tiny_data, tmp_path, second)
    assert {"event": "resumed", "step": STEPS // 2, "checkpoint": f"step_{STEPS // 2:08}"} in metrics
    assert losses(metrics) == pytest.approx(losses(single("true")), rel=1e-4)


@pytest.mark.slow
def test_resharding_from_the_single_process(
    single: Callable[[str], list[dict[str, Any]]], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_layout(gloo_pool, tiny_data, tmp_path, "single", trainer__max_steps=str(STEPS // 2))
    metrics = run_layout(gloo_pool, tiny_data, tmp_path, "tp2_pp2")
    assert losses(metrics) == pytest.approx(losses(single("true")), rel=1e-4)


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
