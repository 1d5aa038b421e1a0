"""tools.describe against the models' published numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.errors import UserError
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


@pytest.mark.parametrize("name", ["tiny", "llama_10m", "lumen_128m", "param1_2p9b", "param1_5b"])
def test_parts_add_up(name: str) -> None:
    description = describe([f"model={name}"])
    assert sum(description["parts"].values()) == description["parameters"]
    assert description["non_embedding"] < description["parameters"] == description["active_per_token"]


def test_impossible_models_are_refused() -> None:
    with pytest.raises(UserError, match="num_attention_heads=3"):
        describe(["model=tiny", "model.num_attention_heads=3"])
    with pytest.raises(UserError, match="seq-length=512"):
        describe(["model=tiny"], seq_length=512)


def test_command_line(repository: Path) -> None:
    command = [sys.executable, "-m", "tools.describe", "model=lumen_128m"]
    text = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    data = json.loads(subprocess.check_output([*command, "--json"], cwd=repository, text=True))
    assert f"{data['parameters']:,}" in text and "output head" not in text
