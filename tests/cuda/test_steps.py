"""Steps on a GPU: as CUDA graphs they are the same, and only logged ones wait. On the CPU: tests/training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import TinyData
from tests.support.cuda import NEEDS_CUDA
from tests.support.device_runs import FAMILIES, deterministic, finished
from tests.support.waiting_runs import unlogged_steps_may_not_wait

pytestmark = NEEDS_CUDA

RUNS = [("tiny", "bf16"), ("tiny", "fp32"), ("tiny_gemma3", "bf16"), ("tiny_nano_hindi", "bf16")]


@pytest.mark.parametrize(("family", "precision"), RUNS)
def test_cuda_graphs_change_nothing(family: str, precision: str, tiny_data: TinyData, tmp_path: Path) -> None:
    """Losses and norms of two micro-batches a step, with a validation in between."""
    more = [
        *FAMILIES[family],
        f"trainer.precision={precision}",
        "trainer.micro_batch_size=2",
        "trainer.global_batch_size=4",
        "trainer.val_check_interval=6",
    ]
    with deterministic():
        plain, graphs = (
            finished(tiny_data, tmp_path, f"graphs_{value}", 12, *more, f"trainer.cuda_graph={value}")
            for value in ("false", "true")
        )
    assert "launched as CUDA graphs" in graphs.stdout and "launched kernel by kernel" in plain.stdout
    assert "trainer.cuda_graph" not in graphs.stderr, graphs.stderr  # Recorded in fact.
    pairs = [
        (here[key] / there[key] - 1)
        for here, there in zip(graphs.metrics, plain.metrics, strict=True)
        for key in ("loss", "grad_norm", "valid.en.loss")
        if key in there
    ]
    assert len(pairs) > 24 and max(map(abs, pairs)) < 5e-3, pairs


def test_graphs_of_compiled_layers(tiny_data: TinyData, tmp_path: Path) -> None:
    """bf16 weights: in fused passes rounding differs, so only that nothing goes wrong is checked."""
    outcome = finished(tiny_data, tmp_path, "run", 30, "trainer.precision=bf16", "trainer.compile=true")
    assert "launched as CUDA graphs" in outcome.stdout and "trainer.cuda_graph" not in outcome.stderr
    losses = list(outcome.losses.values())
    assert losses[-1] < losses[0]


def test_graphs_of_separate_documents(tiny_data: TinyData, tmp_path: Path) -> None:
    """Where documents start differs from step to step: a recording must not keep its own."""
    more = ["data.reset_attention_mask=true", "trainer.precision=fp32"]
    plain, graphs = (
        finished(tiny_data, tmp_path, f"apart_{value}", 12, *more, f"trainer.cuda_graph={value}")
        for value in ("false", "true")
    )
    assert "FlexAttention, each document's own" in graphs.stdout
    assert "trainer.cuda_graph" not in graphs.stderr, graphs.stderr  # Recorded in fact.
    assert graphs.losses == pytest.approx(plain.losses, rel=5e-3)


@pytest.mark.parametrize(
    ("family", "graphs"),
    [("tiny", "false"), ("tiny", "auto"), ("tiny_gemma3", "auto"), ("tiny_nano_hindi", "auto")],
)
def test_only_logged_steps_wait(family: str, graphs: str, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        data__valid="{}",
        trainer__max_steps="20",
        trainer__log_every_n_steps="8",
        trainer__cuda_graph=graphs,
        trainer__compile="false",
    )
    outcome, watched = unlogged_steps_may_not_wait([*settings, *FAMILIES[family]])
    assert outcome.code == 0, outcome.message
    assert watched == 12
