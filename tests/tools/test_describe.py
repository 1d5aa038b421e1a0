"""tools.describe against the models' published numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from recipes.errors import UserError
from tests.support.configs import options
from tests.support.paths import ROOT
from tools.describe import describe


def test_param1_has_its_published_size_and_cost() -> None:
    param1 = describe(["model=param1_2p9b"])
    assert param1["parameters"] == 2_860_648_448
    # 6 x (32 layers x 56,623,104 + 524,288,000) + 32 x 12 x 2048 x 2048: the PaLM convention, 15.6 GFLOP.
    assert param1["flops_per_token"] == 6 * (32 * 56_623_104 + 524_288_000) + 32 * 12 * 2048 * 2048
    # Half of an H100's 989 TFLOP/s is 31,600 tokens per second.
    assert 0.5 * 989e12 / param1["flops_per_token"] == pytest.approx(31_600, rel=2e-3)
    # Keys and values, 32 layers, 8 heads of 128, 2 bytes.
    assert param1["kv_bytes_per_token"] == 2 * 32 * 8 * 128 * 2


@pytest.mark.parametrize("name", options("model"))
def test_parts_and_layers_add_up(name: str) -> None:
    description = describe([f"model={name}"])
    assert sum(description["parts"].values()) == description["parameters"]
    assert description["non_embedding"] < description["parameters"]
    assert description["active_per_token"] <= description["parameters"]
    outside = ("word embeddings", "position embeddings", "output head")
    tables = sum(description["parts"].get(part, 0) for part in outside)
    in_layers = sum((r["last"] - r["first"] + 1) * r["parameters"] for r in description["layers"])
    assert 0 <= description["parameters"] - tables - in_layers <= 2 * 10_000, "the final norm is left"
    numbers = [n for r in description["layers"] for n in range(r["first"], r["last"] + 1)]
    assert numbers == list(range(len(numbers)))


def test_param2_is_17b_with_2p4b_active() -> None:
    """20 x 64 experts of 3 x 2048 x 2048 weights, of which a token passes 6."""
    param2 = describe(["model=param2_17b_a2p4b"])
    idle = 20 * (64 - 6) * 3 * 2048 * 2048
    assert param2["parameters"] - param2["active_per_token"] == idle
    assert param2["parameters"] == pytest.approx(17e9, rel=0.01)
    # The name counts without the (tied) table of 262,144,000, or without a part of it.
    assert 2.2e9 < param2["active_per_token"] - 128_000 * 2048 < 2.4e9 < param2["active_per_token"]


def test_windows_count_as_they_are() -> None:
    """nano_hindi 25M: layers 3 and 7 see 1,024 tokens, the six others 512."""
    nano = describe(["model=nano_hindi_25m"])
    assert [(r["first"], r["window"]) for r in nano["layers"] if r["window"] is None] == [
        (3, None),
        (7, None),
    ]
    matrices = 8 * (384 * (384 + 256) + 384 * 384 + 2 * 384 * 1536) + 68_096 * 384 + 4 * 32 * 2
    assert nano["flops_per_token"] == 6 * matrices + 12 * 384 * (6 * 512 + 2 * 1024)
    assert nano["kv_bytes_at_seq_length"] == 2 * 2 * 64 * 2 * (6 * 512 + 2 * 1024)


def test_impossible_models_are_refused() -> None:
    with pytest.raises(UserError, match="num_attention_heads=3"):
        describe(["model=tiny", "model.num_attention_heads=3"])
    with pytest.raises(UserError, match="seq-length=512"):
        describe(["model=tiny"], seq_length=512)
    with pytest.raises(UserError, match="seq-length=0: must lie between 1 and 256"):
        describe(["model=tiny"], seq_length=0)


def test_command_line() -> None:
    command = [sys.executable, "-m", "tools.describe", "model=lumen_128m"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    data = json.loads(subprocess.check_output([*command, "--json"], cwd=ROOT, text=True))
    assert f"{data['parameters']:,}" in text and "output head" not in text
