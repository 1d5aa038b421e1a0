"""trainer.ema: the average of the weights in checkpoints, under every layout and over resumes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.containers import DirectoryFiles
from recipes.checkpoint.formats.weights import distributed_weights
from recipes.checkpoint.open import open_stored_model
from recipes.cli import STOPPED_BY_SIGNAL
from recipes.errors import UserError
from recipes.run_directory import read_metrics
from tests.support.corpus import TinyData
from tests.support.fault_cases import faulty_case
from tests.support.forked import run_forked
from tests.support.gathered_form import gathering_case
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

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
    pool: GlooPool,
    data: TinyData,
    output_dir: Path,
    layout: str = "dp2",
    faults: str = "",
    case: Callable[..., Outcome] | None = None,
    **changes: str,
) -> Path:
    """The directory of its checkpoints, one for each step."""
    settings = {"output_dir": str(output_dir), "save_nemo": "false", "data__valid": "{}"}
    settings |= {"trainer__max_steps": str(STEPS), "optim__lr": "3e-3", "trainer__ema__decay": str(DECAY)}
    settings |= {"trainer__checkpoint__every_n_steps": "1", "trainer__checkpoint__keep_last": "99"}
    size, parallel = LAYOUTS[layout] if layout != "single" else (1, [])
    overrides = [*data.overrides(**settings | changes), *parallel]
    (outcome, *_) = (
        pool.run(size, case, overrides) if case else pool.run(size, faulty_case, overrides, faults)
    )
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
    expected = averages(whole, STEPS)
    shutil.rmtree(whole / f"step_{STEPS:08d}")
    resumed = run(gloo_pool, tiny_data, tmp_path / "whole", **changes)
    assert "resumed" in [record.get("event") for record in read_metrics(resumed.parent / "metrics.jsonl")]
    assert_equal(averages(resumed, STEPS), expected)


@pytest.mark.parametrize(
    ("kind", "resumed_by"),
    [
        ("adamw, bf16", "dp2"),
        pytest.param("adamw", "dp2", marks=pytest.mark.slow),
        pytest.param("adamw, bf16", "single", marks=pytest.mark.slow),
        pytest.param("muon, bf16", "dp2", marks=pytest.mark.slow),
    ],
)
def test_averages_that_one_rank_has_gathered_and_saved(
    kind: str, resumed_by: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """As before every rank saved its own part; Muon's were already saved by the ranks that own them."""
    changes = RUNS[kind] | {"trainer__max_steps": "3"}
    run(gloo_pool, tiny_data, tmp_path / "own", **changes)
    gathered = run(gloo_pool, tiny_data, tmp_path / "gathered", case=gathering_case, **changes)
    files = {file.name for file in (gathered / "step_00000003").glob("*.distcp")}
    assert files == {"__0_0.distcp"} or "muon" in kind
    own = run(gloo_pool, tiny_data, tmp_path / "own", resumed_by, **RUNS[kind])
    run(gloo_pool, tiny_data, tmp_path / "gathered", resumed_by, **RUNS[kind])
    for step in (3, STEPS):
        assert_equal(averages(gathered, step), averages(own, step))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tp2_sp", "pp2"])
def test_every_layout_averages_alike(
    layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    found = averages(run(gloo_pool, tiny_data, tmp_path / layout, layout), STEPS)
    expected = averages(run(gloo_pool, tiny_data, tmp_path / "dp2"), STEPS)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("adamw, bf16", "single"),
        *(
            pytest.param(kind, layout, marks=pytest.mark.slow)
            for kind, layout in (
                ("adamw, bf16", "dp2_overlapped"),
                ("adamw", "dp2"),
                ("adamw", "tp2_sp"),
                ("muon, bf16", "dp2"),
            )
        ),
    ],
)
def test_validated_beside_the_weights(
    kind: str, layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The average's figures are those of a model made of it, and training goes on as without them."""
    changes = RUNS[kind] | {"data__valid": valid(tiny_data), "trainer__val_check_interval": "2"}
    both = run(gloo_pool, tiny_data, tmp_path / "both", layout, **changes)
    alone = run(gloo_pool, tiny_data, tmp_path / "alone", layout, trainer__ema__validate="false", **changes)
    found, expected = (figures(checkpoints) for checkpoints in (both, alone))
    averaged = {key: value for key, value in found.items() if ".ema_" in key[1]}
    assert {key: value for key, value in found.items() if key not in averaged} == expected
    assert {step for step, _ in averaged} == {2, 4, STEPS}
    for prefix in ("", "ema.", "optimizer."):
        after, before = (tensors(checkpoints, STEPS, prefix) for checkpoints in (both, alone))
        assert after.keys() == before.keys() and after
        assert all(torch.equal(after[name], before[name]) for name in after), prefix
    # The rate of a first step is 0: what is validated is what the run begins with.
    convert(both.parent, tmp_path / "ema", "torch_dist", weights="ema")
    start = changes | {"init_from": str(tmp_path / "ema"), "trainer__ema__decay": "null"}
    converted = figures(
        run(gloo_pool, tiny_data, tmp_path / "new", layout, **start | {"trainer__max_steps": "1"})
    )
    for name in ("en", "hi"):
        for key in ("loss", "bits_per_byte"):
            value = averaged[STEPS, f"valid.{name}.ema_{key}"]
            assert value == converted[1, f"valid.{name}.{key}"] != found[STEPS, f"valid.{name}.{key}"]


def test_a_signal_while_the_averages_are_validated(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """What is saved then are the weights, and the averages beside them."""
    whole = run(gloo_pool, tiny_data, tmp_path / "whole", trainer__max_steps="2")
    settings = {"name": "tiny", "output_dir": str(tmp_path), "save_nemo": "false", "optim__lr": "3e-3"}
    settings |= {"trainer__ema__decay": str(DECAY), "trainer__val_check_interval": "2"}
    outcomes = gloo_pool.run(2, signalled_case, tiny_data.overrides(**settings))
    assert [outcome.code for outcome in outcomes] == [STOPPED_BY_SIGNAL] * 2
    assert not [key for record in outcomes[0].metrics for key in record if key.startswith("valid.")]
    for prefix in ("", "ema."):
        assert_equal(tensors(tmp_path / "tiny" / "checkpoints", 2, prefix), tensors(whole, 2, prefix))


def signalled_case(settings: list[str]) -> Outcome:
    """The model gets SIGTERM when it has begun to compute with its averages."""
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from recipes.optim.ema import Ema

    swap = Ema.swap

    def swap_and_signal(self: Any) -> None:
        swap(self)
        os.kill(os.getpid(), signal.SIGTERM)

    with patch.object(Ema, "swap", swap_and_signal):
        return run_case(settings)


def valid(data: TinyData) -> str:
    return f"{{en:{data.prefix('valid_en')},hi:{data.prefix('valid_hi')}}}"


def figures(checkpoints: Path) -> dict[tuple[int, str], float]:
    """Losses, gradient norms and all of validations, by step and name."""
    return {
        (record["step"], key): value
        for record in read_metrics(checkpoints.parent / "metrics.jsonl")
        for key, value in record.items()
        if key in ("loss", "grad_norm") or key.startswith("valid.")
    }


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
    # Compared with what was converted: the averages, and not of a newer checkpoint than that.
    assert (
        convert(checkpoints.parent, tmp_path / "ema.nemo", "nemo", weights="ema")
        == checkpoints / "step_00000003"
    )
    source, target = checkpoints.parent, tmp_path / "verified"
    done = run_forked("tools.convert", source, target, "--to", "torch_dist", "--weights", "ema", "--verify")
    assert done.returncode == 0 and "verify largest difference of logits" in done.stdout, done.stderr
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
