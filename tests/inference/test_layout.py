"""Models split over processes write what one process writes, on every rank."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.inference.layout import layout_of, processes_of, with_experts_dealt, world_of
from tests.support.nemo_files import CONFIG, FIXTURES, MAIN, changed
from tests.support.paths import ROOT
from tests.support.pool import GlooPool
from tests.support.run_cases import environment
from tests.support.source_cases import write_case
from tests.support.split_cases import complete_case

MODEL = str(MAIN / "model.nemo")
SETTINGS = {"temperature": 1.5, "tokens_to_generate": 8, "top_k": 40, "all_probs": True}
VOCABULARY = 448
TOKENIZER = str(FIXTURES / "nemo2_local" / "ckpt" / "context" / "tiny_sp.model")


def check_same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, str):
            assert one == other
            continue
        for key, value in other.items():
            if value is None:
                assert one[key] is None
            elif key == "logprob":
                assert one[key] == pytest.approx(value, abs=1e-4)
            elif key == "full_logprob":
                flat = [[number for row in part for number in row] for part in (one[key], value)]
                assert flat[0] == pytest.approx(flat[1], abs=1e-4)
            else:
                assert one[key] == value, key


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2), (2, 2)])
def test_every_layout_writes_the_same(tensor: int, pipeline: int) -> None:
    pool = GlooPool()
    (expected,) = pool.run(1, complete_case, MODEL, (1, 1), SETTINGS)
    assert len({result["completion"] for result in expected[:3]}) == 3
    for found in pool.run(tensor * pipeline, complete_case, MODEL, (tensor, pipeline), SETTINGS):
        check_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "biases", "experts", "uneven_experts", "param_moe"])
def test_families_and_layouts(name: str, tmp_path: Path) -> None:
    """Experts are dealt to two ranks, or each is cut in two."""
    pool = GlooPool()
    pool.run(1, write_case, name, str(tmp_path), {}, TOKENIZER, VOCABULARY)
    model = str(tmp_path / f"{name}.nemo")
    settings = {"greedy": True, "tokens_to_generate": 4, "add_BOS": True}
    (expected,) = pool.run(1, complete_case, model, (1, 1), settings)
    for layout in ((2, 1), (1, 2)):
        for found in pool.run(2, complete_case, model, layout, settings):
            check_same(found, expected)


def test_experts_that_cannot_be_split_are_one_line() -> None:
    model = ModelConfig(
        num_layers=2,
        hidden_size=72,
        ffn_hidden_size=96,
        num_attention_heads=6,
        num_moe_experts=4,
        add_bias_linear=True,
        vocab_size=440,
        max_position_embeddings=32,
    )
    both = ParallelConfig(tensor_model_parallel_size=2)
    dealt = with_experts_dealt(both, model)
    assert (dealt.expert_model_parallel_size, dealt.expert_tensor_parallel_size) == (2, 1)
    three = replace(both, tensor_model_parallel_size=3)
    for cannot in (model, replace(model, add_bias_linear=False, moe_ffn_hidden_size=32)):
        with pytest.raises(UserError, match=r"^tensor_model_parallel_size=3: 4 experts cannot be dealt "):
            with_experts_dealt(three, cannot)
    cut = with_experts_dealt(three, replace(model, add_bias_linear=False))  # 96 wide.
    assert cut == replace(three, sequence_parallel=True)


def test_minus_one_is_what_the_file_says(tmp_path: Path) -> None:
    def trained_with_four(content: bytes) -> bytes:
        config = yaml.safe_load(content)
        return yaml.safe_dump(
            config | {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 4}
        ).encode()

    other = changed(Path(MODEL), tmp_path / "other.nemo", CONFIG, trained_with_four)
    assert tarfile.is_tarfile(other)

    def asked(path: str | Path, *settings: str) -> tuple[int, int]:
        layout = layout_of(compose("generate", [f"gpt_model_file={path}", *settings]))
        return layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size

    both = [f"{key}_model_parallel_size=-1" for key in ("tensor", "pipeline")]
    assert asked(other) == (1, 1) and asked(other, *both) == (2, 4)
    assert asked(other, both[0]) == (2, 1)
    assert asked(other, both[1], "tensor_model_parallel_size=1") == (1, 4)
    assert asked(FIXTURES / "nemo2_local" / "ckpt", *both) == (1, 1)


@pytest.mark.parametrize(("tensor", "launched"), [(2, 1), (1, 2), (2, 4)])
def test_processes_are_as_many_as_needed(tensor: int, launched: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(launched))
    sizes = f"tensor_model_parallel_size={tensor}, pipeline_model_parallel_size=1"
    needed = "1 process is needed" if tensor == 1 else f"{tensor} processes are needed"
    with pytest.raises(UserError) as caught:
        world_of(ParallelConfig(tensor))
    assert str(caught.value) == f"{sizes}: {needed}, {launched} launched"


def test_more_processes_than_any_machine_has_devices_for() -> None:
    sizes = {"tensor_model_parallel_size": 10**6, "pipeline_model_parallel_size": 10**3}
    with pytest.raises(UserError, match=r"parallel_size=1,000,000,000: must lie between 1 and 1,024"):
        processes_of(ParallelConfig(**sizes))


def generate(*settings: str) -> subprocess.CompletedProcess[str]:
    common = [f"gpt_model_file={MODEL}", "precision=fp32", "num_threads=1", "inference.greedy=true"]
    return subprocess.run(
        [sys.executable, "-m", "recipes.generate", *common, *settings],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_processes_are_started(tmp_path: Path) -> None:
    """One prints; with a file, one writes it."""
    prompts = ["prompts=['${x}, a \\'quoted\\' one','नदी']", "inference.tokens_to_generate=3", "json=true"]
    alone, split = generate(*prompts), generate(*prompts, "tensor_model_parallel_size=2")
    assert (split.returncode, split.stderr) == (0, "")
    check_same(
        [json.loads(line) for line in split.stdout.splitlines()],
        [json.loads(line) for line in alone.stdout.splitlines()],
    )
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "A"}\n')
    done = generate(f"prompts_jsonl={file}", "pipeline_model_parallel_size=2")
    assert done.returncode == 0 and done.stdout.startswith("wrote 1 line ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "prompts.jsonl",
        "prompts.jsonl.completions.jsonl",
    ]


@pytest.mark.slow
def test_a_layout_that_does_not_fit_is_one_line() -> None:
    done = generate("prompts=[A]", "tensor_model_parallel_size=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: tensor_model_parallel_size=3: does not divide")
    assert len(done.stderr.splitlines()) == 1
