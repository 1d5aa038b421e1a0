"""A family from two files and a YAML outside the project goes the whole way (docs/add-a-model-family.md)."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from recipes.checkpoint.formats.archive import read_member
from recipes.checkpoint.open import open_stored_model
from recipes.config.hydra_app import compose
from recipes.config.validate_model import validate_model
from recipes.errors import UserError
from recipes.families.family import known_families
from recipes.families.model_config import ModelConfig
from recipes.families.tensors import OUTPUT_LAYER, WORD_EMBEDDINGS
from tests.support.cases import completions, nemo_logits, pretrain_case
from tests.support.corpus import TinyData
from tests.support.plugin_family import (
    MODULE,
    NAME,
    SEARCH_PATH,
    environment,
    installed,
    make_package,
    with_package,
)
from tests.support.pool import GlooPool
from tools.describe import describe

MODEL = [SEARCH_PATH, "model=tiny_parallel_gpt"]
STEPS = 8
TABLES = (WORD_EMBEDDINGS, OUTPUT_LAYER)
TOKENS = [list(range(5, 37)), list(range(300, 332))]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = make_package(tmp_path_factory.mktemp("site-packages"))
    with installed(directory):
        yield directory


@pytest.fixture(scope="module")
def train(gloo_pool: GlooPool, tiny_data: TinyData, package: Path) -> Callable[..., list[dict[str, Any]]]:
    def train(output_dir: Path, processes: int, steps: int, *more: str) -> list[dict[str, Any]]:
        settings = [
            setting
            for setting in tiny_data.overrides(output_dir=str(output_dir), trainer__max_steps=str(steps))
            if not setting.startswith("model.")
        ]
        results = gloo_pool.run(
            processes, with_package, package, pretrain_case, [*settings, *MODEL, "optim.lr=3e-3", *more]
        )
        assert [code for code, _ in results] == [0] * processes
        return results[0][1]

    return train


@pytest.fixture(scope="module")
def run(train: Callable[..., list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Begun on one process, gone on with under TP 2."""
    output_dir = tmp_path_factory.mktemp("resumed")
    train(output_dir, 1, STEPS // 2, "save_nemo=false")
    train(output_dir, 2, STEPS, "parallel=tp2")
    return output_dir / "tiny"


def losses(metrics: list[dict[str, Any]]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in metrics if "loss" in record}


def model_of(overrides: list[str]) -> ModelConfig:
    model: ModelConfig = compose("pretrain", ["name=x", "data.seq_length=8", *overrides]).model
    return model


def test_known_only_where_it_is_installed(package: Path) -> None:
    assert NAME in known_families()
    validate_model(model_of(MODEL))
    alone = subprocess.run(
        [sys.executable, "-m", "tools.describe", *MODEL], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 2 and "model.family=parallel_gpt: known families: " in alone.stderr


def test_its_refusals_are_heard(package: Path) -> None:
    with pytest.raises(UserError, match=r"model\.num_query_groups=2: the parallel_gpt family needs 4"):
        validate_model(model_of([*MODEL, "model.num_query_groups=2"]))
    with pytest.raises(UserError, match=r"model\.qk_layernorm=True: the parallel_gpt family needs False"):
        validate_model(model_of([*MODEL, "model.qk_layernorm=true"]))
    with pytest.raises(UserError, match=r"model\.window_size=8: the parallel_gpt family does not use it"):
        validate_model(model_of([*MODEL, "model.window_size=8", "model.window_pattern=S"]))


def test_described_without_torch(package: Path) -> None:
    """Parameters, FLOPs and cache by hand, from the command line, which imports no torch."""
    code = (
        "import json, sys; from tools.describe import describe; d = describe(sys.argv[1:]);"
        "print(json.dumps([d, 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *MODEL],
        env=environment(package),
        capture_output=True,
        text=True,
        check=True,
    )
    described, torch_imported = json.loads(done.stdout)
    assert not torch_imported and described == json.loads(json.dumps(describe(MODEL)))
    hidden, inner, layers, words, context = 64, 96, 3, 1000, 64
    matrices = 4 * hidden * hidden + 2 * hidden * inner
    vectors = 2 * 2 * hidden + 4 * hidden + inner + hidden
    assert described["parameters"] == layers * (matrices + vectors) + 2 * hidden + 2 * words * hidden
    assert described["flops_per_token"] == (
        6 * (layers * matrices + words * hidden) + 12 * hidden * layers * context
    )
    assert described["kv_bytes_per_token"] == 2 * 2 * layers * hidden


def test_resumed_under_tensor_parallelism(
    run: Path, train: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The losses are those of a run on one process that nothing interrupted."""
    from recipes.run_directory import read_metrics

    whole = losses(train(tmp_path, 1, STEPS))
    assert len(whole) == STEPS and whole[STEPS] < whole[1] - 0.5, "the model must have learned something"
    metrics = read_metrics(run / "metrics.jsonl")
    assert {"event": "resumed", "step": STEPS // 2, "checkpoint": f"step_{STEPS // 2:08d}"} in metrics
    assert losses(metrics) == pytest.approx(whole, rel=1e-4)


def reference_logits(tensors: Mapping[str, Tensor], model: ModelConfig, tokens: Tensor) -> Tensor:
    """``[b, s]`` -> ``[b, s, V]`` in float64, from the paper's description."""
    heads, width = model.num_attention_heads, model.hidden_size // model.num_attention_heads
    rotated = int(width * model.rotary_percent)
    length = tokens.shape[1]
    frequencies = model.rotary_base ** (-torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)

    def norm(x: Tensor, name: str) -> Tensor:
        gain, bias = tensors[f"{name}weight"], tensors[f"{name}bias"]
        return functional.layer_norm(x, x.shape[-1:], gain, bias, model.layernorm_epsilon)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def rotate(x: Tensor) -> Tensor:
        first, second, rest = x.split([rotated // 2, rotated // 2, width - rotated], dim=-1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)

    def attention(x: Tensor, layer: str) -> Tensor:
        q, k, v = linear(x, f"{layer}linear_qkv").unflatten(-1, (heads, 3, width)).unbind(-2)
        scores = torch.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)) / math.sqrt(width)
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v.transpose(1, 2)
        return linear(mixed.transpose(1, 2).flatten(2), f"{layer}linear_proj")

    x = tensors["embedding.word_embeddings.weight"][tokens]
    for number in range(model.num_layers):
        layer = f"decoder.layers.{number}."
        read = norm(x, f"{layer}self_attention.linear_qkv.layer_norm_")
        inner = linear(norm(x, f"{layer}mlp.linear_fc1.layer_norm_"), f"{layer}mlp.linear_fc1")
        mlp = linear(functional.gelu(inner), f"{layer}mlp.linear_fc2")
        x = x + attention(read, f"{layer}self_attention.") + mlp
    return norm(x, "decoder.final_layernorm.") @ tensors["output_layer.weight"].T


def test_nemo_file_holds_it_and_computes_it(run: Path, gloo_pool: GlooPool, package: Path) -> None:
    config = read_member(run / "model.nemo", "model_config.yaml").decode()
    assert "family: parallel_gpt" in config and MODULE not in config
    with open_stored_model(run / "model.nemo") as stored:
        model = stored.model
        tensors = {name: tensor.load().double() for name, tensor in stored.tensors.items()}
    assert model.family == NAME and model.num_layers == 3
    expected = reference_logits(tensors, model, torch.tensor(TOKENS))[..., : model.vocab_size].numpy()
    (found,) = gloo_pool.run(1, with_package, package, nemo_logits, str(run / "model.nemo"), TOKENS)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected[..., : found.shape[-1]], atol=1e-5)


def test_completes(run: Path, gloo_pool: GlooPool, package: Path) -> None:
    prompts = ["भारत में", "The river"]
    (texts,) = gloo_pool.run(1, with_package, package, completions, str(run / "model.nemo"), prompts)
    assert all(isinstance(text, str) and text for text in texts)


def test_exported_and_read_back(run: Path, package: Path, tmp_path: Path) -> None:
    """By the command line; what transformers computes from it is the reference's, and back it is the same."""
    for source, target, to in (
        (run / "model.nemo", tmp_path / "hf", "hf"),
        (tmp_path / "hf", tmp_path / "back.nemo", "nemo"),
    ):
        line = [sys.executable, "-m", "tools.convert", str(source), str(target), "--to", to]
        subprocess.run(line, env=environment(package), check=True, capture_output=True)
    with open_stored_model(run / "model.nemo") as stored, open_stored_model(tmp_path / "back.nemo") as back:
        assert back.model.family == NAME and stored.tensors.keys() == back.tensors.keys()
        tensors = {name: tensor.load() for name, tensor in stored.tensors.items()}
        for name, tensor in tensors.items():
            rows = stored.model.vocab_size if name in TABLES else len(tensor)
            assert torch.equal(tensor[:rows], back.tensors[name].load()[:rows]), name
        model = stored.model
    doubles = {name: tensor.double() for name, tensor in tensors.items()}
    tokens = torch.tensor(TOKENS)
    expected = reference_logits(doubles, model, tokens)[..., : model.vocab_size]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float64)
    assert type(exported).__name__ == "GPTNeoXForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(exported(tokens).logits.double(), expected, rtol=0, atol=1e-5)


def test_a_file_that_names_an_unknown_family_imports_nothing(tmp_path: Path) -> None:
    """A model file comes from a stranger: its family is looked up among installed ones, not imported."""
    from recipes.checkpoint.nemo.classic_config import from_nemo_config

    model = model_of(["model=tiny"])
    config = {"recipes": {"model": {**vars(model), "family": "tests.families.parallel_gpt", "megatron": {}}}}
    described = from_nemo_config(config, tokenizer_vocab_size=0, stored_rows=model.vocab_size)
    with pytest.raises(UserError, match=r"model\.family=tests\.families\.parallel_gpt: known families"):
        validate_model(described)
