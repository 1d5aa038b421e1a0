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
    if subprocess.run([*IN_A_NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        data__valid="{}",
        trainer__max_steps="3",
        trainer__checkpoint__every_n_steps="1",
    )
    config = compose("pretrain", settings)
    size = checkpoint_bytes(config.model, config.optim, bf16=False)
    line = f"""mount -t tmpfs -o size={int(size * checkpoints_fit)} none {tmp_path} || exit 99
        "$@"; code=$?; ls {tmp_path}/tiny/checkpoints >&2; exit $code"""
    command = [*IN_A_NAMESPACE, "bash", "-c", line, "bash", sys.executable, "-m", "recipes.pretrain"]
    ended = subprocess.run(
        [*command, *settings], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert " GB free, a checkpoint takes " in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("step_")] == left
    if code:
        assert "stopped by a guard: " in ended.stderr and "step 1 is not saved. Make room" in ended.stderr
