"""Each run of a sweep has a directory of its own, which the same sweep finds again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.spy import spy

RUN = ["data.seq_length=32", "trainer.max_steps=1"]


def places(*arguments: str) -> list[str]:
    """The run directories of a sweep, as names."""
    (done,) = spy(["recipes.config.run_directory", "--multirun", *RUN, *arguments])
    assert (done.code, done.err) == (0, "")
    return [line.removeprefix("outputs/") for line in done.out.splitlines()]


def test_swept_settings_name_the_runs() -> None:
    assert places("name=a", "optim.lr=1e-3,3e-3", "seed=5") == ["a-optim.lr=0.001", "a-optim.lr=0.003"]
    both = places("name=a", "optim.lr=1e-3", "seed=1,2", "model=tiny,llama_10m")
    assert both == [f"a-model={model}-seed={seed}" for seed in (1, 2) for model in ("tiny", "llama_10m")]


def test_order_spelling_and_size_of_the_sweep_do_not_matter() -> None:
    first = places("name=a", "optim.lr=1e-3,3e-3", "seed=1,2")
    again = places("seed=2,1,3", "optim.lr=0.0030,0.001", "name=a")
    assert set(first) < set(again)


@pytest.mark.parametrize("name", ["name=a,b", "name=a_${optim.lr}"])
def test_names_of_ones_own_are_kept(name: str) -> None:
    swept = ["optim.lr=1e-3,3e-3"] if "$" in name else []
    assert places(name, *swept) == (["a_0.001", "a_0.003"] if swept else ["a", "b"])


def test_one_value_is_no_sweep() -> None:
    assert places("name=a", "optim.lr=1e-3") == ["a"]


def test_values_that_no_directory_can_have_stay_apart() -> None:
    first, second = places("name=a", "data.index_cache_dir=x/y,x_y")
    assert first.startswith("a-data.index_cache_dir=x_y-") and second == "a-data.index_cache_dir=x_y"


def test_nothing_is_left_where_it_was_started(tmp_path: Path) -> None:
    # A process of its own: Hydra loads its plugins once in each.
    command = [sys.executable, "-m", "recipes.config.run_directory", "-m", "name=a", *RUN, "seed=1,2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["outputs/a-seed=1", "outputs/a-seed=2"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("job", "arguments", "key", "found"),
    [
        ("clean", ["output_dir=out", "tasks=1,2"], "output_dir", ["out/tasks=1", "out/tasks=2"]),
        (
            "generate",
            ["gpt_model_file=x", "prompts_jsonl=a/p.jsonl", "seed=1,2"],
            "output_jsonl",
            ["a/p.jsonl.completions-seed=1.jsonl", "a/p.jsonl.completions-seed=2.jsonl"],
        ),
        ("generate", ["gpt_model_file=x", "prompts=a", "seed=1,2"], "output_jsonl", [None, None]),
    ],
)
def test_other_jobs(
    job: str, arguments: list[str], key: str, found: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes.config.hydra_app import run_job

    monkeypatch.setattr("sys.argv", ["x", "-m", *arguments])
    places: list[str | None] = []
    with pytest.raises(SystemExit) as end:
        run_job(job, lambda config: places.append(getattr(config, key)) or 0)  # type: ignore[func-returns-value]
    assert (end.value.code, places) == (0, found)
