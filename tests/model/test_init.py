"""Initial weights: the same under every layout, distributed as documented, nowhere repeated."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig
from tests.support.engine import TINY, initial_parameters, initialized
from tests.support.pool import GlooPool

pytestmark = pytest.mark.usefixtures("engine")

Arrays = dict[str, NDArray[Any]]


def parameters(model: ModelConfig, seed: int = 1) -> Arrays:
    return {name: p.detach().cpu().numpy() for name, p in initialized(model, seed).named_parameters()}


def joined(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One tensor from those of all tensor-parallel ranks."""
    if parts[0].ndim == 1:
        assert all(np.array_equal(part, parts[0]) for part in parts)
        return parts[0]
    if name.endswith("linear_fc1.weight"):  # Each rank holds its part of the gate, then of the up projection.
        halves = [np.split(part, 2) for part in parts]
        return np.concatenate([gate for gate, _ in halves] + [up for _, up in halves])
    return np.concatenate(parts, axis=1 if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else 0)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)])
def test_every_layout_starts_from_the_same_weights(gloo_pool: GlooPool, tp: int, pp: int, tied: bool) -> None:
    model = replace(TINY, share_embeddings_and_output_weights=tied, vocab_size=1500)  # Two blocks of rows.
    expected = parameters(model, seed=7)
    parallel = ParallelConfig(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    ranks: list[Arrays] = gloo_pool.run(tp * pp, initial_parameters, model, parallel, 7)
    stages = [ranks[stage * tp : (stage + 1) * tp] for stage in range(pp)]
    seen = set()
    for stage in stages:
        for name in stage[0]:
            # A tied model's last stage has a copy of the embedding.
            origin = "embedding.word_embeddings.weight" if tied and name == "output_layer.weight" else name
            np.testing.assert_array_equal(
                joined(name, [rank[name] for rank in stage]), expected[origin], name
            )
            seen.add(origin)
    assert seen == set(expected)


def test_padding_changes_no_row() -> None:
    unpadded = parameters(replace(TINY, make_vocab_size_divisible_by=1))
    for multiple in (128, 1024, 3000):
        padded = parameters(replace(TINY, make_vocab_size_divisible_by=multiple))
        for name, values in unpadded.items():
            assert padded[name].shape[0] == (
                multiple * -(-250 // multiple) if len(values) == 250 else len(values)
            )
            np.testing.assert_array_equal(padded[name][: len(values)], values)


def test_more_layers_keep_the_first_ones_up_to_their_scale() -> None:
    few, many = parameters(replace(TINY, num_layers=2)), parameters(replace(TINY, num_layers=8))
    for name, values in few.items():
        output = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
        np.testing.assert_allclose(many[name] * (2.0 if output else 1.0), values, rtol=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_distribution(scaled: bool) -> None:
    model = replace(
        TINY, hidden_size=256, ffn_hidden_size=512, init_method_std=0.013, use_scaled_init_method=scaled
    )
    matrices = 0
    for name, values in parameters(model).items():
        if values.ndim == 1:
            np.testing.assert_array_equal(values, 1.0)
            continue
        matrices += 1
        std = 0.013
        if scaled and name.endswith(("linear_proj.weight", "linear_fc2.weight")):
            std /= math.sqrt(2 * model.num_layers)
        standard, count = values.astype(np.float64).ravel() / std, values.size
        # Five standard errors of a normal sample's moments and of its tail.
        assert abs(standard.mean()) < 5 / math.sqrt(count), name
        assert abs(standard.std() - 1) < 5 / math.sqrt(2 * count), name
        assert abs((standard**4).mean() - 3) < 5 * math.sqrt(96 / count), name
        outside = math.erfc(2 / math.sqrt(2))
        assert abs((np.abs(standard) > 2).mean() - outside) < 5 * math.sqrt(outside / count), name
        # Neighbouring numbers know nothing of each other.
        assert abs((standard[1:] * standard[:-1]).mean()) < 5 / math.sqrt(count), name
    assert matrices == 2 + 4 * 4


def test_biases_are_zero_and_gains_one() -> None:
    model = replace(
        TINY, normalization="LayerNorm", add_bias_linear=True, position_embedding_type="learned_absolute"
    )
    for name, values in parameters(model).items():
        if name.endswith("bias"):
            np.testing.assert_array_equal(values, 0.0)
        elif values.ndim == 1:
            np.testing.assert_array_equal(values, 1.0)
        else:
            assert values.std() > 0
    assert "embedding.position_embeddings.weight" in parameters(model)


def test_seed_decides() -> None:
    first, again, other = parameters(TINY, 1), parameters(TINY, 1), parameters(TINY, 2)
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
        if values.ndim == 2:
            assert (values == other[name]).mean() < 1e-3, name


def test_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(5)
    gpt = initialized(TINY)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    from recipes.model.init import initialize_weights

    initialize_weights(gpt, TINY, 9)
    assert torch.equal(torch.rand(3), expected)


def test_no_row_of_any_matrix_repeats() -> None:
    model = replace(TINY, vocab_size=5000, ffn_hidden_size=1280, use_scaled_init_method=False)
    # The first numbers of every row of every 64 columns wide matrix, and of fc2 and proj their first columns.
    rows = np.concatenate([values[:, :32] for values in parameters(model).values() if values.ndim == 2])
    assert len(rows) > 20_000
    assert len(np.unique(rows, axis=0)) == len(rows)
