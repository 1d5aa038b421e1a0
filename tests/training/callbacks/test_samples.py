"""Completions while training are those of the stored model, under every layout, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.report import write_report
from tests.support.cases import completions, logits_while_training, nemo_logits
from tests.support.corpus import TinyData
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

PROMPTS = ["भारत में", "The river"]
GREEDY = [
    "trainer.samples.every_n_steps=3",
    f"trainer.samples.prompts={PROMPTS}",
    "trainer.samples.inference.greedy=true",
    "trainer.samples.inference.tokens_to_generate=8",
]
DRAWN = [*GREEDY, "trainer.samples.inference.greedy=false", "trainer.samples.inference.top_k=20"]


def run(
    pool: GlooPool, data: TinyData, output_dir: Path, *settings: str, layout: str = "", **changes: str
) -> Outcome:
    size, parallel = LAYOUTS[layout] if layout else (1, [])
    changes = {"save_nemo": "false", "trainer__max_steps": "6", **changes}
    base = data.overrides(output_dir=str(output_dir), **changes)
    outcomes = pool.run(size, run_case, [*base, *parallel, *settings])
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes[0].message
    first: Outcome = outcomes[0]
    return first


def samples(outcome: Outcome) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for record in outcome.metrics:
        if record.get("event") == "sample":
            found.setdefault(record["step"], []).append((record["prompt"], record["completion"]))
    return found


@pytest.fixture(scope="module")
def alone(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Path]:
    """One process with samples, and its run directory."""
    directory = tmp_path_factory.mktemp("alone")
    return run(gloo_pool, tiny_data, directory, *GREEDY, save_nemo="true"), directory / "tiny"


def test_samples_are_the_stored_model_s_completions(
    alone: tuple[Outcome, Path], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    outcome, directory = alone
    assert list(samples(outcome)) == [3, 6]
    (stored,) = gloo_pool.run(1, completions, str(directory / "model.nemo"), PROMPTS)
    assert samples(outcome)[6] == list(zip(PROMPTS, stored, strict=True))
    assert f"sample {PROMPTS[1]}|" in outcome.stdout
    page = write_report(directory).read_text()
    assert "Samples while training" in page and "Step 3" in page and PROMPTS[0] in page
    without = run(gloo_pool, tiny_data, tmp_path / "b")
    assert without.losses == outcome.losses
    assert "Samples while training" not in write_report(tmp_path / "b" / "tiny").read_text()


@pytest.mark.parametrize(
    "layout",
    [
        "tp2_sp",
        "pp2",
        pytest.param("tp2", marks=pytest.mark.slow),
        pytest.param("dp2_overlapped", marks=pytest.mark.slow),
    ],
)
def test_every_layout_writes_the_same(
    layout: str, alone: tuple[Outcome, Path], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    assert samples(run(gloo_pool, tiny_data, tmp_path, *GREEDY, layout=layout)) == samples(alone[0])


@pytest.mark.parametrize("layout", ["tp2_sp", pytest.param("pp2", marks=pytest.mark.slow)])
def test_logits_of_whole_texts_are_the_stored_model_s(
    layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Of an odd length, which sequence parallelism cannot split as it is."""
    tokens = [[5, 9, 200, 31, 7], [1, 2, 3, 300, 12]]
    size, parallel = LAYOUTS[layout]
    base = tiny_data.overrides(output_dir=str(tmp_path), trainer__max_steps="3")
    ranks = gloo_pool.run(size, logits_while_training, [*base, *parallel, *GREEDY], tokens)
    (stored,) = gloo_pool.run(1, nemo_logits, str(tmp_path / "tiny" / "model.nemo"), tokens)
    for logits in ranks:
        np.testing.assert_allclose(logits, stored, atol=1e-5)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(["model=tiny_nano_hindi", "optim=muon"], id="nano_hindi", marks=pytest.mark.slow),
        pytest.param(["model=tiny_param_moe"], id="moe", marks=pytest.mark.slow),
    ],
)
def test_other_families_and_resuming(
    family: list[str], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    whole = run(gloo_pool, tiny_data, tmp_path / "whole", *family, *DRAWN)
    without = run(gloo_pool, tiny_data, tmp_path / "without", *family)
    assert whole.losses == without.losses
    run(gloo_pool, tiny_data, tmp_path / "two", *family, *DRAWN, trainer__max_steps="4")
    resumed = run(gloo_pool, tiny_data, tmp_path / "two", *family, *DRAWN)
    assert samples(resumed) == samples(whole)
    assert all(text for _, text in samples(whole)[6])
