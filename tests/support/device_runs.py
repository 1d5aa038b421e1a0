"""Runs of recipes.pretrain that must agree, on whatever device this process computes on.

tests/cuda calls these on a GPU, tests/training on the CPU. No case has more than one rank.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.checkpoint import FileSystemReader

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.save.manifest import finished_checkpoints, verify
from recipes.training.faults import VARIABLE
from tests.support.cases import completions
from tests.support.corpus import TinyData
from tests.support.paths import ROOT
from tests.support.run_cases import Outcome, environment, run_case

FAMILIES: dict[str, list[str]] = {
    "tiny": ["model=tiny"],
    "tiny_gemma3": ["model=tiny_gemma3"],
    "tiny_nano_hindi": ["model=tiny_nano_hindi", "optim=muon"],
    "tiny_param_moe": ["model=tiny_param_moe"],
    "tiny_param2_moe": ["model=tiny_param2_moe"],
}
"""Of each family its small model; Muon where the family is trained with it."""

RECOMPUTATION = [
    "parallel.recompute_granularity=full",
    "parallel.recompute_method=uniform",
    "parallel.recompute_num_layers=1",
]


@contextmanager
def deterministic() -> Iterator[None]:
    """Two runs of the same settings are the same to the last bit, on a GPU too as far as it can."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


def finished(data: TinyData, output_dir: Path, name: str, steps: int, *more: str) -> Outcome:
    """A run to its end, not compiled unless ``more`` says so, which would hide what is compared here."""
    settings = data.overrides(
        name=name,
        output_dir=str(output_dir),
        save_nemo="false",
        optim__lr_decay_steps="100",
        trainer__max_steps=str(steps),
        trainer__compile="false",
    )
    outcome = run_case([*settings, *more])
    assert outcome.code == 0, outcome.message
    assert len(outcome.losses) == steps and all(math.isfinite(loss) for loss in outcome.losses.values())
    return outcome


def precisions(data: TinyData, output_dir: Path, family: str, steps: int) -> tuple[Outcome, Outcome]:
    """The same run in bf16, compiled if the device's default is so, and in fp32, not compiled."""
    bf16 = ["trainer.precision=bf16", "trainer.compile=auto"]
    return (
        finished(data, output_dir, "bf16", steps, *FAMILIES[family], *bf16),
        finished(data, output_dir, "fp32", steps, *FAMILIES[family], "trainer.precision=fp32"),
    )


def assert_bf16_learns_as_fp32(data: TinyData, output_dir: Path, family: str, steps: int) -> None:
    """The first loss to 1 % (rounding alone), the mean of the last tenth to 4 % (rounded updates add up)."""
    bf16, fp32 = (list(outcome.losses.values()) for outcome in precisions(data, output_dir, family, steps))
    last = max(1, steps // 10)
    assert abs(bf16[0] / fp32[0] - 1) < 0.01, (bf16[0], fp32[0])
    means = [sum(losses[-last:]) / last for losses in (bf16, fp32)]
    assert abs(means[0] / means[1] - 1) < 0.04, means
    assert means[0] < bf16[0] and means[1] < fp32[0]


@deterministic()
def assert_recomputation_changes_nothing(
    data: TinyData, output_dir: Path, family: str, steps: int, tolerance: float
) -> None:
    """Losses of a run that computes its activations twice."""
    plain, again = (
        finished(data, output_dir, name, steps, *FAMILIES[family], *more).losses
        for name, more in (("plain", []), ("recomputed", RECOMPUTATION))
    )
    worst = max(abs(again[step] / loss - 1) for step, loss in plain.items())
    assert worst <= tolerance, worst


@deterministic()
def assert_resumed_is_uninterrupted(
    data: TinyData, output_dir: Path, family: str, steps: int, tolerance: float
) -> None:
    """Losses of a run that begins again from the checkpoint of its middle."""
    more = [*FAMILIES[family], f"trainer.checkpoint.every_n_steps={steps // 2}"]
    whole = finished(data, output_dir, "run", steps, *more)
    (middle, end) = finished_checkpoints(output_dir / "run" / "checkpoints")
    shutil.rmtree(end)
    resumed = finished(data, output_dir, "run", steps, *more)
    assert {"event": "resumed", "step": steps // 2, "checkpoint": middle.name} in resumed.metrics
    repeated = [record for record in resumed.metrics if "loss" in record]
    assert len(repeated) == steps and whole.losses.keys() == resumed.losses.keys()
    worst = max(abs(resumed.losses[step] / loss - 1) for step, loss in whole.losses.items())
    assert worst <= tolerance, worst


@deterministic()
def assert_asynchronous_saves_are_the_same(data: TinyData, output_dir: Path, family: str, steps: int) -> None:
    """Checkpoints that a thread writes while training goes on, byte by byte."""
    runs = {}
    for name in ("false", "true"):
        more = [
            *FAMILIES[family],
            "trainer.checkpoint.every_n_steps=2",
            "trainer.checkpoint.keep_last=99",
            f"trainer.checkpoint.async_save={name}",
        ]
        finished(data, output_dir, name, steps, *more)
        runs[name] = finished_checkpoints(output_dir / name / "checkpoints")
    assert [path.name for path in runs["true"]] == [path.name for path in runs["false"]]
    assert len(runs["true"]) == steps // 2
    contents = set()
    for synchronous, asynchronous in zip(runs["false"], runs["true"], strict=True):
        ours, theirs = (verify(path)["files"] for path in (asynchronous, synchronous))
        # It names the directory and has a random number.
        assert {*ours.pop(".metadata")} == {*theirs.pop(".metadata")}
        # The settings are in it, of which one differs here.
        assert {*ours.pop("common.pt")} == {*theirs.pop("common.pt")}
        assert shared_state(asynchronous) == shared_state(synchronous)
        described, other = (FileSystemReader(path).read_metadata() for path in (asynchronous, synchronous))
        assert described.state_dict_metadata == other.state_dict_metadata
        assert ours == theirs
        contents.add(ours["__0_0.distcp"]["sha256"])
    assert len(contents) == steps // 2, "training does change the state"


@deterministic()
def assert_local_checkpoints_resume(
    data: TinyData, output_dir: Path, family: str, steps: int, tolerance: float
) -> None:
    """Losses of a run that breaks off and goes on from a local checkpoint: there is no other."""
    from recipes.training.callbacks.faults import InjectedError

    more = [
        *FAMILIES[family],
        f"trainer.checkpoint.local.directory={output_dir / 'disk'}",
        "trainer.checkpoint.local.every_n_steps=2",
    ]
    whole = finished(data, output_dir, "whole", steps, *more)
    with patch.dict(os.environ, {VARIABLE: f"exception:step={steps}"}), suppress(InjectedError):
        finished(data, output_dir, "run", steps, *more)
    assert not finished_checkpoints(output_dir / "run" / "checkpoints")
    resumed = finished(data, output_dir, "run", steps, *more)
    assert [record["step"] > 0 for record in resumed.metrics if record.get("event") == "resumed"] == [True]
    worst = max(abs(resumed.losses[step] / loss - 1) for step, loss in whole.losses.items())
    assert worst <= tolerance, worst


def shared_state(checkpoint: Path) -> dict[str, Any]:
    """What common.pt holds, without the run's settings."""
    state: dict[str, Any] = load_plain(checkpoint / "common.pt")
    state["recipes"].pop("settings")
    return state


def assert_completes_as_the_cpu(data: TinyData, output_dir: Path, steps: int) -> None:
    """Greedy completions of an fp32 model here are those of a process that sees no GPU."""
    finished(data, output_dir, "run", steps, "save_nemo=true", "trainer.precision=fp32")
    model, prompts = output_dir / "run" / "model.nemo", ["The river", "भारत में"]
    here = completions(str(model), prompts)
    settings = ["precision=fp32", "inference.greedy=true", "inference.tokens_to_generate=8", "json=true"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "recipes.generate", f"gpt_model_file={model}", *settings),
            f"prompts={json.dumps(prompts, ensure_ascii=False)}",
        ],
        cwd=ROOT,
        env=environment() | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    there = [json.loads(line)["completion"] for line in done.stdout.splitlines()]
    assert here == there, (here, there)
    assert all(here)
