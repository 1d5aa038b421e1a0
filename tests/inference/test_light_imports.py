"""What completion imports, most of the time to a small model's first token, and what it sets before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.inference import fast_reads
from tests.support.nemo_files import MAIN
from tests.support.paths import ROOT

COMPLETE = """
import json, sys
from recipes.config.hydra_app import compose
from recipes.generate import run
settings = ["gpt_model_file=" + sys.argv[1], "prompts=['A']", "inference.tokens_to_generate=1", "json=true"]
assert run(compose("generate", settings)) == 0
loaded = sorted(sys.modules)
import tensorboard  # It can be imported again.
import torch
tensor = torch.ones(4 * 2**20)
flags, here = "", False
for line in open("/proc/self/smaps"):
    name, *words = line.split()
    if not name.endswith(":"):
        first, last = (int(address, 16) for address in name.split("-"))
        here = first <= tensor.data_ptr() < last
    elif here and name == "VmFlags:":
        flags = words
from threadpoolctl import threadpool_info  # scikit-learn's.
kernels = [pool["architecture"] for pool in threadpool_info() if pool["internal_api"] == "openblas"]
print(json.dumps({"modules": loaded, "flags of large tensors": flags, "kernels": kernels}))
"""
NOT_NEEDED = ("wandb", "tensorboard", "nemo", "lightning", "transformers", "lm_eval", "torch._dynamo")


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """In a process that has completed a prompt."""
    command = [sys.executable, "-c", COMPLETE, str(MAIN / "model.nemo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_completion_imports_neither_trainers_nor_compilers(seen: dict[str, Any]) -> None:
    loaded = set(seen["modules"])
    assert "megatron.core" in loaded and not set(NOT_NEEDED) & loaded


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
def test_large_tensors_are_asked_to_lie_in_huge_pages(seen: dict[str, Any]) -> None:
    assert "hg" in seen["flags of large tensors"]


@pytest.mark.skipif("avx512f" not in fast_reads.CPU_FLAGS.read_text(), reason="no AVX-512")
def test_openblas_is_told_before_it_is_loaded(seen: dict[str, Any]) -> None:
    if os.environ.get(fast_reads.KERNELS, "Haswell") != "Haswell" or not seen["kernels"]:
        pytest.skip("another choice, or no OpenBLAS")
    assert set(seen["kernels"]) == {"Haswell"}
