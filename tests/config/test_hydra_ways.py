"""Counts are counts wherever they stand: on the command line, in YAML, in entries of lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.errors import UserError
from tests.support.spy import spy

RUN = ["name=x", "data.seq_length=1k"]


@pytest.mark.parametrize(
    "written", ["1e9", "1000M", "1B", "0.001T", "1_000_000_000", "1,000,000,000", "1.0e9"]
)
def test_on_the_command_line(written: str) -> None:
    assert compose("pretrain", [*RUN, f"trainer.max_tokens={written}"]).trainer.max_tokens == 10**9


def test_in_entries() -> None:
    entries = [
        "data.train={en:{path:x,tokens:2.5k}}",
        "phases=[{until_tokens:1M,train:{en:{tokens:3e5}}},{}]",
    ]
    config = compose("pretrain", [*RUN, *entries])
    data, phases = config.data, config.phases
    assert (data.seq_length, data.train["en"].tokens) == (1000, 2500)
    assert (phases[0].until_tokens, phases[0].train["en"].tokens) == (10**6, 300_000)


def test_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    experiment = tmp_path / "experiment" / "mine.yaml"
    command = ["recipes.pretrain", "--config-dir", str(tmp_path), *RUN, "experiment=mine", "--cfg", "job"]
    experiment.write_text("# @package _global_\ntrainer: {max_tokens: 7.5T, max_steps: 1e3}\n")
    (done,) = spy(command)
    assert done.code == 0 and "max_tokens: 7500000000000\n" in done.out and "max_steps: 1000\n" in done.out
    experiment.write_text("# @package _global_\ntrainer: {max_tokens: 7.0005k}\n")
    (done,) = spy(command)
    assert done.code == 2 and done.err.startswith("error: trainer.max_tokens=7.0005k: must be a whole number")


@pytest.mark.parametrize("written", ["1.5", "1.0005k", "many", "true", "1e-3"])
def test_nothing_is_rounded(written: str) -> None:
    with pytest.raises(UserError, match=r"must be a whole number such as 2000, 2e3, 2k, 1\.5M, 2B or 7\.5T"):
        compose("pretrain", [*RUN, f"trainer.max_steps={written}"])
