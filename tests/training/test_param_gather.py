"""overlap_param_gather: what is saved between a step and the next forward pass is what the step made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.save.manifest import finished_checkpoints, verify
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

OVERLAP = ["parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true"]
LAYOUTS = {
    "dp2": [],
    # Here only the experts have several data-parallel ranks, and buffers of their own.
    "experts": ["model=tiny_param2_moe", "parallel=tp2_sp", "parallel.expert_tensor_parallel_size=1"],
}

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def run(gloo_pool: GlooPool, tiny_data: TinyData) -> Run:
    """Without a held-out set: no validation gathers the parameters before they are saved."""

    def run(output_dir: Path, layout: str, *more: str, steps: int = 5) -> Outcome:
        settings = tiny_data.overrides(
            output_dir=str(output_dir),
            data__valid="{}",
            trainer__precision="bf16",
            trainer__max_steps=str(steps),
            trainer__checkpoint__every_n_steps="2",
            trainer__checkpoint__keep_last="9",
        )
        outcomes = gloo_pool.run(2, run_case, [*settings, *LAYOUTS[layout], *more])
        assert [outcome.code for outcome in outcomes] == [0, 0]
        return outcomes[0]

    return run


@pytest.fixture(scope="module")
def plain(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run without overlap, made once per layout."""
    made: dict[str, Path] = {}

    def plain(layout: str) -> Path:
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp(layout)
            run(made[layout], layout)
        return made[layout] / "tiny"

    return plain


def written(run_directory: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file of tensors: weights and optimizer state."""
    return {
        f"{path.name}/{name}": entry
        for path in finished_checkpoints(run_directory / "checkpoints")
        for name, entry in verify(path)["files"].items()
        if name.endswith(".distcp")
    }


def weights(nemo: Path) -> dict[str, torch.Tensor]:
    with open_stored_model(nemo) as source:
        return {name: tensor.load() for name, tensor in source.tensors.items()}


@pytest.mark.parametrize(
    ("layout", "async_save"),
    [
        ("dp2", "false"),
        pytest.param("dp2", "true", marks=pytest.mark.slow),
        pytest.param("experts", "false", marks=pytest.mark.slow),
    ],
)
def test_the_same_bytes_are_saved(
    layout: str, async_save: str, run: Run, plain: Callable[[str], Path], tmp_path: Path
) -> None:
    run(tmp_path, layout, *OVERLAP, f"trainer.checkpoint.async_save={async_save}")
    ours, expected = written(tmp_path / "tiny"), written(plain(layout))
    assert {name.split("/")[0] for name in expected} == {f"step_{step:08}" for step in (2, 4, 5)}
    assert ours == expected
    found, wanted = weights(tmp_path / "tiny" / "model.nemo"), weights(plain(layout) / "model.nemo")
    assert found.keys() == wanted.keys()
    assert not [name for name, tensor in found.items() if not torch.equal(tensor, wanted[name])]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resumed_run_repeats_the_whole_one(layout: str, run: Run, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", layout, *OVERLAP, steps=7)
    run(tmp_path, layout, *OVERLAP, steps=3)
    resumed = run(tmp_path, layout, *OVERLAP, steps=7)
    assert {"event": "resumed", "step": 3, "checkpoint": "step_00000003"} in resumed.metrics
    assert resumed.losses == whole.losses and sorted(whole.losses) == list(range(1, 8))
