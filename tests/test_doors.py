"""Every command line, of jobs, tools and benchmarks: help at once, and one line for what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.spy import ENGINE, Spied, spy

DOORS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ("recipes", "tools", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)
NEED_NOTHING = {
    "tools.settings",
    "tools.quickstart",
    "benchmarks.attention",
    "benchmarks.blend_index",
    "benchmarks.checkpoint_save",
    "benchmarks.goodput",
    "benchmarks.kills",
    "benchmarks.plan_accuracy",
    "benchmarks.scale",
    "benchmarks.step_time",
    "benchmarks.versions",
}
"""Without an argument they do their work."""


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, ...], Spied]:
    """What every door answers to --help, to an unknown flag and to nothing."""
    commands = [[door, *arguments] for door in DOORS for arguments in (["--help"], ["--nonsense"])]
    commands += [[door] for door in DOORS if door not in NEED_NOTHING]
    preload = "recipes.config.hydra_app"
    return dict(zip(map(tuple, commands), spy(*commands, preload=preload), strict=True))


def test_doors_are_found() -> None:
    assert {"recipes.pretrain", "tools.clean", "tools.convert", "benchmarks.model_step"} <= set(DOORS)
    assert set(DOORS) >= NEED_NOTHING | KINDS


@pytest.mark.parametrize("door", DOORS)
def test_help_is_printed_at_once(door: str, answers: dict[tuple[str, ...], Spied]) -> None:
    code, out, err, imported = answers[door, "--help"]
    assert (code, err, imported & ENGINE) == (0, "", set())
    assert re.search(r"^examples", out, re.IGNORECASE | re.MULTILINE), out


def check_one_line(answer: Spied) -> str:
    assert answer.code == 2 and answer.out == ""
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1, answer.err
    assert not answer.imported & ENGINE
    return answer.err


@pytest.mark.parametrize("door", DOORS)
def test_an_unknown_flag_is_one_line(door: str, answers: dict[tuple[str, ...], Spied]) -> None:
    assert "--nonsense: " in check_one_line(answers[door, "--nonsense"])


@pytest.mark.parametrize("door", [door for door in DOORS if door not in NEED_NOTHING])
def test_no_arguments_are_one_line_with_an_example(door: str, answers: dict[tuple[str, ...], Spied]) -> None:
    assert "for example: python -m " in check_one_line(answers[(door,)])


def test_tools_that_take_settings_refuse_them_as_jobs_do() -> None:
    tools = ("tools.describe", "recipes.config.run_directory")
    mistakes = {
        "model=tinny": "error: model=tinny: there is no such option; did you mean tiny?",
        "model.num_layer=3": "error: model.num_layer: there is no such key; did you mean model.num_layers?",
        "tiny": "error: tiny: settings are written key=value; did you mean model=tiny?",
    }
    answers = spy(*([tool, mistake] for tool in tools for mistake in mistakes))
    for answer, message in zip(answers, [*mistakes.values()] * len(tools), strict=True):
        assert check_one_line(answer) == f"{message}\n"


# One of each kind after every edit: each is a process of its own.
KINDS = {"recipes.pretrain", "tools.describe", "tools.clean", "tools.convert", "benchmarks.model_step"}


@pytest.mark.parametrize(
    "door", [pytest.param(door, marks=[] if door in KINDS else [pytest.mark.slow]) for door in DOORS]
)
def test_a_reader_that_has_seen_enough(door: str) -> None:
    """``... --help | head``, with a head that is gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", door, "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    # argparse swallows the error where output is not buffered.
    assert done.returncode in (0, 141) and done.stderr == ""
