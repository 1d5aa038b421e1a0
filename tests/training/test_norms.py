"""Norms by group of parameters against the plainest computation. Under every layout: tests/parallel."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpus import TinyData
from tests.support.device_runs import FAMILIES
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

Sums = dict[str, list[float]]


def measured_case(overrides: list[str]) -> tuple[Outcome, list[Sums]]:
    """A run, and by step and group of parameters the squared norms of gradients, weights and updates."""
    from recipes.training.module import ParamGPT
    from recipes.training.optimizer_view import LightningOptimizerView

    models: list[Any] = []
    steps: list[Sums] = []
    step, train = LightningOptimizerView.step, ParamGPT.training_step

    def training_step(self: Any, *args: Any) -> Any:
        models[:] = [self.gpt]
        return train(self, *args)

    def measured(self: Any, closure: Any = None) -> Any:
        (gpt,) = models
        before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
        gradients = {name: p.main_grad.clone() for name, p in gpt.named_parameters()}
        result = step(self, closure)
        sums: Sums = defaultdict(lambda: [0.0, 0.0, 0.0])
        for name, p in gpt.named_parameters():
            for place, part in enumerate((gradients[name], p, p - before[name])):
                sums[group_of(name, p.dim())][place] += part.detach().double().square().sum().item()
        steps.append(dict(sums))
        return result

    ParamGPT.training_step, LightningOptimizerView.step = training_step, measured  # type: ignore
    return run_case(overrides), steps


def group_of(name: str, dimensions: int) -> str:
    if dimensions < 2:
        return "vectors"
    if "embedding" in name:
        return "embedding"
    if name.startswith("output_layer"):
        return "head"
    match = re.match(r"decoder\.layers\.(\d+)\.(.*)", name)
    assert match is not None
    return f"layer_{match[1]}.{'mlp' if match[2].startswith('mlp') else 'attention'}"


@pytest.mark.parametrize(
    "family",
    [
        "tiny",
        "tiny_nano_hindi",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("tiny_gemma3", "tiny_param_moe")),
    ],
)
def test_norms_are_those_of_the_parameters(
    family: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        data__valid="{}",
        trainer__max_steps="4",
        trainer__log_every_n_steps="2",
        trainer__log_details_every_n_steps="2",
        optim__clip_grad="0.5",  # Every step is clipped.
    )
    ((outcome, measured),) = gloo_pool.run(1, measured_case, [*settings, *FAMILIES[family]])
    assert outcome.code == 0, outcome.message
    records = {record["step"]: record for record in outcome.metrics if "loss" in record}
    assert [step for step, record in records.items() if "weight_norm" in record] == [2, 4]
    for step in (2, 4):
        record, sums = records[step], measured[step - 1]
        groups = {key.removeprefix("grad_norm.") for key in record if key.startswith("grad_norm.")}
        assert groups == set(sums) and len(groups) > 6
        for group, (gradient, weight, update) in sums.items():
            assert record[f"grad_norm.{group}"] == pytest.approx(math.sqrt(gradient), rel=1e-4)
            assert record[f"weight_norm.{group}"] == pytest.approx(math.sqrt(weight), rel=1e-4)
            ratio = math.sqrt(update / weight)
            assert record[f"update_ratio.{group}"] == pytest.approx(ratio, rel=1e-3) and ratio > 0
        total = math.sqrt(sum(gradient for gradient, _, _ in sums.values()))
        assert record["grad_norm"] == pytest.approx(total, rel=1e-4) and total > 0.5
