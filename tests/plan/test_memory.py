"""Planned memory and checkpoint sizes against measured ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.config.validate import validate_pretrain
from recipes.plan.accounting import count_parameters
from recipes.plan.memory import checkpoint_bytes, expected_memory_bytes, run_memory
from tests.support.corpus import TinyData
from tests.support.run_cases import start

PARAM1 = compose("pretrain", ["experiment=param1_2p9b"])
GIB = 2**30


def param1_memory(**changes: Any) -> dict[str, int]:
    settings: dict[str, Any] = {
        "micro_batch_size": 4, "num_micro_batches": 4, "seq_length": 2048, "data_parallel_size": 1,
        "bf16": True, "on_cuda": True,
    }  # fmt: skip
    parallel = changes.pop("parallel", ParallelConfig())
    return expected_memory_bytes(PARAM1.model, PARAM1.optim, parallel, **settings | changes)


@pytest.mark.parametrize(
    ("micro_batch_size", "bytes_per_logit", "measured"), [(4, 6, 78.9), (4, 4, 74.9), (8, 4, 101.8)]
)
def test_param1_on_one_h200(micro_batch_size: int, bytes_per_logit: int, measured: float) -> None:
    """GiB that torch counted in training all 32 layers.

    With megatron-core's loss (bf16 logits and a copy in fp32 that becomes the gradient), and with a compiled
    F.cross_entropy (logits and gradient in bf16).
    """
    parts = param1_memory(micro_batch_size=micro_batch_size, bytes_per_logit=bytes_per_logit)
    assert sum(parts.values()) / GIB == pytest.approx(measured, rel=0.02)


def test_weights_and_state() -> None:
    """bf16: 2 bytes of weight, 4 of gradient, 4 of main weight and 8 of moments a parameter."""
    total = count_parameters(PARAM1.model).total  # 256,000 needs no padding.
    for data_parallel in (1, 64):
        parts = param1_memory(data_parallel_size=data_parallel)
        assert parts["weights"] == 2 * total
        assert parts["gradients"] == 4 * total
        assert parts["main weights"] == pytest.approx(4 * total / data_parallel, rel=1e-6)
        assert parts["optimizer"] == pytest.approx(8 * total / data_parallel, rel=1e-6)
    fp32 = param1_memory(bf16=False)
    assert (fp32["weights"], fp32["main weights"]) == (4 * total, 0)


def test_steps_with_details_copy_the_weights() -> None:
    """During the update, when activations are gone: it counts where it takes more than they did."""
    total = count_parameters(PARAM1.model).total
    plain, few = param1_memory(), param1_memory(micro_batch_size=1)
    assert param1_memory(details=True) == plain | {"copy of weights": 0}
    detailed = param1_memory(micro_batch_size=1, details=True)["copy of weights"]
    assert detailed == 4 * total - few["activations"] - few["logits and loss"] > 0
    recorded = param1_memory(details=True, recorded=True, data_parallel_size=4)
    assert recorded["copy of weights"] == total  # Graphs keep the activations; 4 bytes, a quarter each.


def test_a_run_with_details_is_planned_with_them() -> None:
    settings = ["experiment=param1_2p9b", "trainer.micro_batch_size=1", "parallel.world_size=1"]
    every = "trainer.log_details_every_n_steps=50"
    run, detailed = (
        run_memory(compose("pretrain", more), 1, on_cuda=True) for more in (settings, [*settings, every])
    )
    assert sum(detailed.values()) - sum(run.values()) == detailed["copy of weights"] > 0
    small = run_memory(compose("pretrain", ["experiment=quickstart", every]), 1, on_cuda=True)
    assert (
        small["copy of weights"]
        == 4 * count_parameters(compose("pretrain", ["experiment=quickstart"]).model).total
    )


def test_layouts() -> None:
    whole = param1_memory()
    halved = param1_memory(parallel=ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True))
    for part in ("weights", "gradients", "activations", "logits and loss"):
        assert halved[part] == pytest.approx(whole[part] / 2, rel=0.01)
    # The first of 4 stages keeps a quarter of the layers for 4 micro-batches in flight, and has no logits.
    pipelined = ParallelConfig(pipeline_model_parallel_size=4)
    first = param1_memory(parallel=pipelined)
    assert first["logits and loss"] == 0
    assert first["activations"] == pytest.approx(whole["activations"], rel=0.05)
    # With one micro-batch the last stage is the fullest.
    last = param1_memory(parallel=pipelined, num_micro_batches=1)
    assert last["logits and loss"] > 0 and last["activations"] < first["activations"] / 3


def test_experts_shared_by_fewer_replicas() -> None:
    """With expert parallelism 8 on 8 data-parallel ranks every expert has one replica: nothing to share."""
    param2 = compose("pretrain", ["experiment=param2_17b_a2p4b"])
    sizes = {}
    for ep in (1, 8):
        parts = expected_memory_bytes(
            param2.model,
            param2.optim,
            ParallelConfig(expert_model_parallel_size=ep),
            micro_batch_size=1,
            num_micro_batches=1,
            seq_length=4096,
            data_parallel_size=8,
            bf16=True,
            on_cuda=True,
        )
        sizes[ep] = parts
    assert sizes[8]["weights"] < sizes[1]["weights"] / 4
    assert sizes[8]["optimizer"] == pytest.approx(sizes[1]["optimizer"], rel=1e-3)


def settings(data: TinyData, directory: Path, *more: str) -> list[str]:
    changes = {"output_dir": str(directory), "save_nemo": "false", "trainer__max_steps": "1"}
    return [*data.overrides(**changes), "trainer.limit_val_batches=1", "~data.valid.hi", *more]


@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpoint_size(
    optim: str, precision: str, tiny_data: TinyData, tmp_path: Path, gloo_pool: Any
) -> None:
    from tests.support.run_cases import run_case

    model = ["model.hidden_size=128", "model.ffn_hidden_size=512", "model.vocab_size=2000"]
    model += ["model.share_embeddings_and_output_weights=false", f"optim={optim}"]
    overrides = settings(tiny_data, tmp_path, *model, f"trainer.precision={precision}")
    assert gloo_pool.run(1, run_case, overrides)[0].code == 0
    files = (tmp_path / "tiny" / "checkpoints" / "step_00000001").rglob("*")
    config = compose("pretrain", overrides)
    planned = checkpoint_bytes(config.model, config.optim, bf16=precision == "bf16")
    assert sum(file.stat().st_size for file in files) == pytest.approx(planned, rel=0.03)


ACTIVATIONS = (256, 256, 8, 8)
SEVERAL_MICRO_BATCHES = (256, 256, 8, 32)
STATE = (1024, 64, 1, 8)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak that Linux counts")
@pytest.mark.parametrize(
    ("largest", "sizes"),
    [("activations", ACTIVATIONS), ("activations", SEVERAL_MICRO_BATCHES), ("saving", STATE)],
    ids=["activations", "several_micro_batches", "state"],
)
def test_peak_of_a_process(
    largest: str, sizes: tuple[int, int, int, int], tiny_data: TinyData, tmp_path: Path
) -> None:
    """Models of which one part takes most memory. malloc's gaps vary: a fifth."""
    hidden_size, seq_length, micro_batch_size, global_batch_size = sizes
    width = [
        f"model.hidden_size={hidden_size}", f"model.ffn_hidden_size={4 * hidden_size}", "model.num_layers=8",
        f"data.seq_length={seq_length}", f"model.max_position_embeddings={seq_length}",
        f"trainer.micro_batch_size={micro_batch_size}", f"trainer.global_batch_size={global_batch_size}",
        "trainer.precision=fp32",
    ]  # fmt: skip
    overrides = settings(tiny_data, tmp_path, *width)
    config = compose("pretrain", overrides)
    parts = run_memory(config, validate_pretrain(config), on_cuda=False)
    assert max(parts, key=lambda part: parts[part]) == largest
    process = start(overrides)
    assert process.stdout is not None and process.stderr is not None
    output = process.stdout.read() + process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    assert 1024 * usage.ru_maxrss == pytest.approx(sum(parts.values()), rel=0.2)
