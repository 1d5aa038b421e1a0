"""Every family under every layout that it has repeats its run on a single process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.families.family import find_family
from tests.support.cases import pretrain_case
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool

FAMILIES = {
    "llama": ["optim.lr=3e-3"],
    "gemma3": ["model=tiny_gemma3", "optim.lr=1e-2"],
    # Most of the model has no effect until its output projections, zero at first, have grown.
    "nano_hindi": ["model=tiny_nano_hindi", "optim.lr=5e-3"],
}
LAYOUTS = {
    "tp2": ["parallel=tp2"],
    "tp2_sp": ["parallel=tp2_sp"],
    "pp2_uneven": ["parallel=pp2", "parallel.num_layers_in_first_pipeline_stage=1"],
    "dp2": ["parallel=single"],
    "cp2": ["parallel=single", "parallel.context_parallel_size=2"],
}
# Families may refuse these sizes, with the reason.
REFUSABLE = {"pp2_uneven": "pipeline_model_parallel_size", "cp2": "context_parallel_size"}
STEPS = 6

Metrics = list[dict[str, Any]]
Run = Callable[..., Metrics]


def layouts_of(family: str) -> list[str]:
    refused = find_family(family).refused_layouts
    asked = ["pp2_uneven", "cp2"] if family == "llama" else LAYOUTS  # The others are in test_layouts.py.
    return [layout for layout in asked if REFUSABLE.get(layout) not in refused]


@pytest.fixture(scope="module")
def run(gloo_pool: GlooPool, tiny_data: TinyData) -> Run:
    def run(family: str, layout: str, output_dir: Path, steps: int = STEPS) -> Metrics:
        settings = tiny_data.overrides(
            output_dir=str(output_dir), save_nemo="false", trainer__max_steps=str(steps)
        )
        world_size, parallel = (1, ["parallel=single"]) if layout == "single" else (2, LAYOUTS[layout])
        results = gloo_pool.run(world_size, pretrain_case, [*settings, *FAMILIES[family], *parallel])
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


def each_step(metrics: Metrics, key: str) -> dict[int, float]:
    return {record["step"]: record[key] for record in metrics if "loss" in record}


# Where the family makes least difference: after every edit the others are enough.
SLOW = {
    ("llama", "pp2_uneven"),
    ("gemma3", "tp2"),
    ("nano_hindi", "tp2"),
    ("gemma3", "dp2"),
    ("nano_hindi", "dp2"),
}
CASES = [
    pytest.param(family, layout, marks=[pytest.mark.slow] if (family, layout) in SLOW else [])
    for family in FAMILIES
    for layout in layouts_of(family)
]


@pytest.mark.parametrize(("family", "layout"), CASES)
def test_layout_repeats_the_single_process(
    family: str, layout: str, run: Run, single: Callable[[str], Metrics], tmp_path: Path
) -> None:
    metrics, expected = run(family, layout, tmp_path), single(family)
    losses = each_step(expected, "loss")
    assert len(losses) == STEPS and losses[STEPS] < losses[1] - 0.5, "the model must have learned something"
    assert each_step(metrics, "loss") == pytest.approx(losses, rel=1e-4)
    assert each_step(metrics, "grad_norm") == pytest.approx(each_step(expected, "grad_norm"), rel=1e-3)


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "nano_hindi"))]
)
def test_checkpoint_of_tensor_parallelism_continues_under_another_layout(
    family: str, run: Run, single: Callable[[str], Metrics], tmp_path: Path
) -> None:
    second = "pp2_uneven" if "pp2_uneven" in layouts_of(family) else "dp2"
    run(family, "tp2_sp", tmp_path, steps=STEPS // 2)
    metrics = run(family, second, tmp_path)
    assert {"event": "resumed", "step": STEPS // 2, "checkpoint": f"step_{STEPS // 2:08}"} in metrics
    assert each_step(metrics, "loss") == pytest.approx(each_step(single(family), "loss"), rel=1e-4)
