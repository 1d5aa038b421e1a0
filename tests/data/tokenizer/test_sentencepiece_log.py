"""What a training of SentencePiece shows while it runs."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Shown as on a long training: at every occasion.
TRAIN = """
import sys
from recipes import console
console.LOG_INTERVAL_S = 0.0
from tools.train_tokenizer import main
from recipes.cli import run_tool
run_tool(main)
"""


def train(text: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TRAIN, str(text), "--out", str(text.parent / "t"), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    letters = random.Random(0)
    words = ["".join(letters.choices("abcdefghij", k=7)) for _ in range(500)]
    path.write_text("\n".join(" ".join(letters.choices(words, k=8)) for _ in range(3000)))
    return path


def test_bpe_counts_its_merges(text: Path) -> None:
    done = train(text, "--vocab-size", "700", "--type", "bpe")
    assert done.returncode == 0 and done.stdout == ""
    shown = done.stderr.splitlines()
    assert any(re.match(r"reading: [\d.]+k/\d+k ", line) for line in shown)
    merged = [int(found[1]) for line in shown if (found := re.match(r"merging: (\d+)/700 ", line))]
    assert merged and merged == sorted(merged)
    assert "counting words" in shown and not [line for line in shown if "trainer" in line]


def test_unigram_counts_what_it_drops(text: Path) -> None:
    done = train(text, "--vocab-size", "500", "--type", "unigram", "--force")
    assert done.returncode == 0
    shown = done.stderr.splitlines()
    assert "finding frequent strings" in shown
    assert any(re.match(r"dropping: \d+/\d+ ", line) for line in shown)
    assert not [line for line in shown if "trainer" in line]


def test_a_refusal_is_one_line_after_the_progress(text: Path) -> None:
    done = train(text, "--vocab-size", "200000", "--type", "bpe", "--force")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: a vocabulary of 200,000 is too large for this text"
    )
    assert "trainer" not in done.stderr
