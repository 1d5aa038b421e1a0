"""What completion imports: most of the time to a first token of a small model is that."""

from __future__ import annotations

import json
import subprocess
import sys

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
print(json.dumps(loaded))
"""
NOT_NEEDED = ("wandb", "tensorboard", "nemo", "lightning", "transformers", "lm_eval", "torch._dynamo")


def test_a_completion_imports_neither_trainers_nor_compilers() -> None:
    command = [sys.executable, "-c", COMPLETE, str(MAIN / "model.nemo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "megatron.core" in loaded and not set(NOT_NEEDED) & set(loaded)
