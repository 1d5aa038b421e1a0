"""Steps on fixed tensors, in two halves, are those without. Recorded on a GPU: tests/cuda/test_steps.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.device_runs import FAMILIES
from tests.support.graph_cases import recorded_case, update_fails_case, waiting_case
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case


def settings(data: TinyData, directory: Path, name: str, *more: str) -> list[str]:
    """Two micro-batches a step on each of two ranks, four on one."""
    base = data.overrides(
        name=name,
        output_dir=str(directory),
        save_nemo="false",
        optim__lr_decay_steps="20",
        trainer__max_steps="8",
        trainer__micro_batch_size="1",
        trainer__global_batch_size="4",
        trainer__val_check_interval="4",
    )
    return [*base, *more]


@pytest.fixture(scope="module")
def plain(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run of one rank in which nothing is recorded."""
    outcome: Outcome = gloo_pool.run(
        1, run_case, settings(tiny_data, tmp_path_factory.mktemp("plain"), "plain")
    )[0]
    assert outcome.code == 0 and len(outcome.losses) == 8
    return outcome


@pytest.mark.parametrize(
    ("family", "ranks", "graphs"),
    [("tiny", 1, 2), ("tiny", 2, 1), pytest.param("tiny_nano_hindi", 1, 1, marks=pytest.mark.slow)],
)
def test_recorded_steps_are_the_same(
    family: str, ranks: int, graphs: int, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    more = [*FAMILIES[family], "trainer.checkpoint.every_n_steps=5", "trainer.precision=bf16"]
    plain = gloo_pool.run(ranks, run_case, settings(tiny_data, tmp_path, "plain", *more))[0]
    recorded, made = gloo_pool.run(ranks, recorded_case, settings(tiny_data, tmp_path, "recorded", *more))[0]
    assert (recorded.code, made) == (0, graphs), recorded.message
    assert recorded.losses == plain.losses and len(plain.losses) == 8
    figures = [
        (r.get("loss"), r.get("grad_norm"), r.get("lr"), r.get("valid.en.loss")) for r in plain.metrics
    ]
    assert figures == [
        (r.get("loss"), r.get("grad_norm"), r.get("lr"), r.get("valid.en.loss")) for r in recorded.metrics
    ]


def test_every_size_and_every_rotary_base_is_recorded_anew(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Also where only the base changes: a graph reads the tables that there were."""
    phases = (
        "[{until_step:2},{until_step:4,seq_length:16,micro_batch_size:2},{until_step:6,rotary_base:50000},"
        "{rotary_base:50000,global_batch_size:8}]"
    )
    plain = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, "plain", f"phases={phases}"))[0]
    more = settings(tiny_data, tmp_path, "recorded", f"phases={phases}")
    recorded, made = gloo_pool.run(1, recorded_case, more)[0]
    assert (recorded.code, made) == (0, 3 + 1), recorded.message
    assert recorded.losses == plain.losses and len(plain.losses) == 8


def test_a_recorded_run_is_resumed_exactly(
    plain: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    first = settings(tiny_data, tmp_path, "parts", "trainer.max_steps=5")
    assert gloo_pool.run(1, recorded_case, first)[0][0].code == 0
    rest, _ = gloo_pool.run(1, recorded_case, settings(tiny_data, tmp_path, "parts"))[0]
    assert rest.code == 0 and rest.losses == plain.losses


def test_on_a_cpu_it_is_ignored(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    asked = settings(tiny_data, tmp_path, "asked", "trainer.cuda_graph=true", "trainer.max_steps=1")
    (outcome,) = gloo_pool.run(1, run_case, asked)
    assert outcome.code == 0
    assert outcome.stderr == "warning: trainer.cuda_graph=true: has no effect with a CPU\n"


def failing_case(overrides: list[str]) -> object:
    return recorded_case(overrides, fails=True)[0]


@pytest.mark.parametrize("case", [failing_case, waiting_case, update_fails_case])
def test_what_cannot_be_recorded_goes_on(
    case: object, plain: Outcome, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """One line, and the losses of a run that never tried; this build of torch cannot record."""
    outcome = gloo_pool.run(1, case, settings(tiny_data, tmp_path, "other"))[0]  # type: ignore[arg-type]
    assert outcome.code == 0, outcome.message
    assert outcome.losses == plain.losses
    (said,) = [line for line in outcome.stderr.splitlines() if "trainer.cuda_graph" in line]
    # A CPU or a CUDA build of torch.
    assert re.search("is launched kernel by kernel: (Runtime|Accelerator)Error: ", said)
