"""trainer.ema: the average of the weights in checkpoints, under every layout and over resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.containers import DirectoryFiles
from recipes.checkpoint.formats.weights import distributed_weights
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from tests.support.corpus import TinyData
from tests.support.fault_cases import faulty_case
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool

DECAY, STEPS = 0.75, 6
Tensors = dict[str, torch.Tensor]
RUNS = {
    "adamw": {},
    "adamw, bf16": {"trainer__precision": "bf16"},
    "muon": {"optim": "muon", "model__share_embeddings_and_output_weights": "false"},
    "muon, bf16": {
        "optim": "muon",
        "model__share_embeddings_and_output_weights": "false",
        "trainer__precision": "bf16",
    },
}


def run(
    pool: GlooPool, data: TinyData, output_dir: Path, layout: str = "dp2", faults: str = "", **changes: str
) -> Path:
    """The directory of its checkpoints, one for each step."""
    settings = {"output_dir": str(output_dir), "save_nemo": "false", "data__valid": "{}"}
    settings |= {"trainer__max_steps": str(STEPS), "optim__lr": "3e-3", "trainer__ema__decay": str(DECAY)}
    settings |= {"trainer__checkpoint__every_n_steps": "1", "trainer__checkpoint__keep_last": "99"}
    size, parallel = LAYOUTS[layout]
    (outcome, *_) = pool.run(size, faulty_case, [*data.overrides(**settings | changes), *parallel], faults)
    assert outcome.code == 0, outcome.message
    return output_dir / "tiny" / "checkpoints"


def tensors(checkpoints: Path, step: int, prefix: str) -> Tensors:
    """Those whose keys begin with the prefix, by the weights' names."""
    weights = distributed_weights(DirectoryFiles(checkpoints / f"step_{step:08d}"), prefix)
    assert weights is not None
    return {name: tensor.load() for name, tensor in weights.tensors.items()}


def averages(checkpoints: Path, step: int) -> Tensors:
    return tensors(checkpoints, step, "ema.")


def main_weights(checkpoints: Path, step: int, changes: dict[str, str]) -> Tensors:
    """In fp32."""
    if "optim" not in changes:
        return tensors(checkpoints, step, "optimizer.state.param.")
    return tensors(
        checkpoints, step, "optimizer.state.fp32_param." if "trainer__precision" in changes else ""
    )


def assert_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys() and found
    for name in found:
        assert found[name].dtype == torch.float32 and torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize(
    "kind",
    ["adamw, bf16", *(pytest.param(kind, marks=pytest.mark.slow) for kind in RUNS if kind != "adamw, bf16")],
)
def test_it_is_the_average_and_resumes_are_exact(
    kind: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Step 3 is skipped and changes nothing; every second step counts."""
    changes, nan = RUNS[kind] | {"trainer__ema__every_n_steps": "2"}, "nan:step=3"
    whole = run(gloo_pool, tiny_data, tmp_path / "whole", faults=nan, **changes)
    before, weights = averages(whole, 4), main_weights(whole, STEPS, changes)
    assert_equal(averages(whole, 5), before)
    weight = torch.tensor(1 - DECAY)
    assert_equal(
        averages(whole, STEPS), {name: torch.lerp(before[name], weights[name], weight) for name in before}
    )
    run(gloo_pool, tiny_data, tmp_path, faults=nan, **changes | {"trainer__max_steps": "5"})
    halves = run(gloo_pool, tiny_data, tmp_path, **changes)
    assert_equal(averages(halves, STEPS), averages(whole, STEPS))


@pytest.mark.parametrize("layout", ["tp2_sp", pytest.param("pp2", marks=pytest.mark.slow)])
def test_every_layout_averages_alike(
    layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    found = averages(run(gloo_pool, tiny_data, tmp_path / layout, layout), STEPS)
    expected = averages(run(gloo_pool, tiny_data, tmp_path / "dp2"), STEPS)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_turned_on_late_and_converted(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    checkpoints = run(gloo_pool, tiny_data, tmp_path, trainer__max_steps="2", trainer__ema__decay="null")
    with pytest.raises(UserError, match=r"step_00000002: holds no average of the weights"):
        convert(checkpoints / "step_00000002", tmp_path / "none", "torch_dist", weights="ema")
    run(gloo_pool, tiny_data, tmp_path, trainer__max_steps="3")
    before, after = tensors(checkpoints, 2, ""), tensors(checkpoints, 3, "")
    weight = torch.tensor(1 - DECAY)
    expected = {name: torch.lerp(before[name], after[name], weight) for name in before}
    assert_equal(averages(checkpoints, 3), expected)
    convert(checkpoints.parent, tmp_path / "ema", "torch_dist", weights="ema")
    convert(checkpoints.parent, tmp_path / "ema.nemo", "nemo", weights="ema")
    with open_stored_model(tmp_path / "ema") as stored:
        assert_equal({name: tensor.load() for name, tensor in stored.tensors.items()}, expected)
    tokens = [[5, 6, 7, 8, 9, 10]]
    (ours,) = gloo_pool.run(1, logits_case, str(checkpoints.parent), "ema", tokens)
    (converted,) = gloo_pool.run(1, logits_case, str(tmp_path / "ema.nemo"), "trained", tokens)
    (trained,) = gloo_pool.run(1, logits_case, str(checkpoints.parent), "trained", tokens)
    assert (ours == converted).all() and (ours != trained).any()
    with pytest.raises(UserError, match="only a run's own checkpoints hold an average"):
        convert(tmp_path, tmp_path / "none", "torch_dist", weights="ema")


def logits_case(path: str, weights: str, tokens: list[list[int]]) -> Any:
    """``[b, s, V]``, by the model that completion and evaluation load."""
    from recipes.inference.text_model import load_text_model

    model = load_text_model(path, precision="fp32", num_threads=1, weights=weights)
    return model.logits(torch.tensor(tokens)).numpy()


def test_local_checkpoints_hold_it(gloo_pool: GlooPool, tiny_data: TinyData) -> None:
    settings = tiny_data.overrides(trainer__ema__decay="0.9")
    assert gloo_pool.run(1, local_case, settings) == [(True, True)]


def local_case(settings: list[str]) -> tuple[bool, bool]:
    """Whether averages come back, and whether without any they are the weights."""
    from recipes.checkpoint.local.state import load_rank_state, rank_state
    from recipes.config.hydra_app import compose
    from recipes.config.world import launched_world
    from recipes.training.engine import build_engine
    from tests.support.engine import initialized, process_groups

    config = compose("pretrain", settings)
    with process_groups(world=launched_world()):
        gpt = initialized(config.model)
        engine = build_engine(gpt, config, torch.float32)
        ema = engine.ema
        assert ema is not None
        for average in ema.averages:
            average.add_(1.0)
        state = rank_state(gpt, engine.optimizer, ema)
        expected = [average.clone() for average in ema.averages]
        ema.begin_again()
        load_rank_state(state, gpt, engine.optimizer, ema)
        come_back = all(map(torch.equal, ema.averages, expected))
        del state["averages"]
        load_rank_state(state, gpt, engine.optimizer, ema)
        return come_back, all(map(torch.equal, ema.averages, ema.mains))
