"""Saves on a disk that is really too small: a file system of its own, in a namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.plan.memory import checkpoint_bytes
from tests.support.corpus import TinyData
from tests.support.paths import ROOT
from tests.support.run_cases import environment

GUARD = 4
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoints_fit", "code", "left"), [(2.6, 0, ["step_00000002", "step_00000003"]), (0.8, GUARD, [])]
)
def test_little_room(
    checkpoints_fit: float, code: int, left: list[str], tiny_data: TinyData, tmp_path: Path
) -> None:
    """keep_last=2 needs room for three; with less, the older one goes before the new one is written."""
    ended = run_in(checkpoints_fit, tiny_data, tmp_path)
    assert ended.returncode == code, ended.stderr
    assert " GB free, a checkpoint takes " in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("step_")] == left
    if code:
        assert "stopped by a guard: " in ended.stderr and "step 1 is not saved. Make room" in ended.stderr


@pytest.mark.slow
def test_no_room_for_two_that_are_being_written(tiny_data: TinyData, tmp_path: Path) -> None:
    """What the save under way has still to write is not free for another, beside the checkpoint of step 1."""
    changes = {"trainer__checkpoint__keep_last": "1", "trainer__checkpoint__async_save": "true"}
    launcher = ("-m", "tests.support.background_cases", "slow")
    ended = run_in(2.6, tiny_data, tmp_path, *launcher, first='"$@" trainer.max_steps=1;', **changes)
    assert ended.returncode == 0, ended.stderr
    assert "the save of step 2 is not written yet, training waits for it (no room on the disk" in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("step_")] == ["step_00000003"]
    assert ended.stdout.count("saved ") == 3


def run_in(
    checkpoints_fit: float,
    tiny_data: TinyData,
    tmp_path: Path,
    *launcher: str,
    first: str = "",
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    """Three steps, and three saves, on a disk of that size, and then the checkpoints that it holds on stderr.

    Args:
        first: a command to be run there before.
    """
    if subprocess.run([*IN_A_NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        data__valid="{}",
        trainer__max_steps="3",
        trainer__checkpoint__every_n_steps="1",
        **changes,
    )
    config = compose("pretrain", settings)
    size = checkpoint_bytes(config.model, config.optim, bf16=False)
    line = f"""mount -t tmpfs -o size={int(size * checkpoints_fit)} none {tmp_path} || exit 99
        {first} "$@"; code=$?; ls {tmp_path}/tiny/checkpoints >&2; exit $code"""
    command = [*IN_A_NAMESPACE, "bash", "-c", line, "bash", sys.executable, *launcher]
    return subprocess.run(
        [*command, "-m", "recipes.pretrain", *settings],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
