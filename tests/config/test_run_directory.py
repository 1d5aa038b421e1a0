"""python -m recipes.config.run_directory: one line, and nothing heavy is imported for it."""

import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.run_cases import environment

ASK = """
import runpy, sys
sys.argv[1:] = ["experiment=quickstart", "output_dir=runs/${seed}"]
try:
    runpy.run_module("recipes.config.run_directory", run_name="__main__")
finally:
    assert not {"torch", "megatron", "nemo", "lightning"} & set(sys.modules)
"""


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment(), capture_output=True, text=True
    )


def test_one_line_without_the_engine() -> None:
    done = ask("-c", ASK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs/1234/quickstart\n", "")


def test_mistakes_are_one_line_and_exit_code_2() -> None:
    for wrong in ("outputdir=x", "data.seq_length=x"):
        done = ask("-m", "recipes.config.run_directory", "experiment=quickstart", wrong)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
