"""Every signal that ends a run in good order, to the process or to its group, with and without workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from itertools import product
from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.forked import Forked
from tests.support.run_cases import heed_hang_ups, start, wait_for_step

SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STOP_AT = 3
# After every edit: the way that took the workers first, and the newest signal. torchrun is slow to start;
# tests/training/callbacks signals one of two ranks.
ALWAYS = {("SIGTERM", "group", 2, 1), ("SIGHUP", "process", 0, 1)}
CASES = [
    pytest.param(*case, marks=[] if case in ALWAYS else [pytest.mark.slow])
    for case in product(SIGNALS, ("process", "group"), (0, 2), (1, 2))
]


def session_of_its_own() -> None:
    """Its group is its own, and nohup's way with SIGHUP, which is inherited, is not."""
    os.setsid()
    heed_hang_ups()


@pytest.mark.parametrize(("name", "target", "workers", "processes"), CASES)
def test_signal_saves_and_ends_with_3(
    name: str, target: str, workers: int, processes: int, tiny_data: TinyData, tmp_path: Path
) -> None:
    process: subprocess.Popen[str] | Forked
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        trainer__max_steps="100000",
        optim__lr_decay_steps="100000",
        data__num_workers=str(workers),
        data__valid="{}",
    )
    run = tmp_path / "tiny"
    if workers or processes == 2:
        process = start(settings, TORCHRUN if processes == 2 else (), start_new_session=True)
    else:
        process = Forked("recipes.pretrain", settings, session_of_its_own)
    try:
        wait_for_step(run / "metrics.jsonl", STOP_AT, lambda: process.poll() is None, limit_s=240)
        started = _descendants(process.pid)
        send(getattr(signal, name), process.pid, target, processes)
        out, err = process.communicate(timeout=240)
    finally:
        kill_all(process.pid)
    if processes == 1:
        assert process.returncode == 3 and "Traceback" not in err, err
    else:  # torchrun itself ends with 1, and says with what its processes ended.
        assert process.returncode == 1 and "DataLoader" not in err, err
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()], "workers are left"
    assert "stopped by a signal at step" in out and out.count(f"signal {name}: stopping") == 1
    (checkpoint,) = (run / "checkpoints").iterdir()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["step"] >= STOP_AT and not (run / "model.nemo").exists()


def send(number: int, launcher: int, target: str, processes: int) -> None:
    """To the launched processes, each alone or with its group; torchrun makes a group of each of its own."""
    to = os.killpg if target == "group" else os.kill
    trainers = [launcher] if processes == 1 else trainers_of(launcher)
    assert len(trainers) == processes
    for pid in trainers:
        to(pid, number)


def trainers_of(launcher: int) -> list[int]:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(launcher)}
    return [pid for pid, command in commands.items() if b"recipes.pretrain" in command]


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def kill_all(launcher: int) -> None:
    """What a failed case has left."""
    for pid in [*_descendants(launcher), launcher]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(parent: int) -> list[int]:
    try:
        below = children(parent)
    except FileNotFoundError:
        return []
    return [pid for child in below for pid in (*_descendants(child), child)]
