"""What dry_run=true says, against numbers worked out here."""

from __future__ import annotations

import os
import re

import pytest

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from recipes.plan.dry_run import describe_run

PARAM1 = [
    "name=param1",
    "model.num_layers=32",
    "model.hidden_size=2048",
    "model.ffn_hidden_size=7168",
    "model.num_attention_heads=16",
    "model.num_query_groups=8",
    "model.vocab_size=256000",
    "model.max_position_embeddings=2048",
    "model.share_embeddings_and_output_weights=false",
    "data.seq_length=2048",
    "data.train={en:{path:data/en,weight:0.75},hi:{path:data/hi,weight:0.25}}",
    "optim.lr=3e-4",
    "optim.min_lr=3e-6",
    "optim.lr_warmup_steps=2000",
    "parallel.tensor_model_parallel_size=2",
    "parallel.world_size=512",
    "trainer.global_batch_size=2048",
    "trainer.max_tokens=7500000000000",
    "dry_run=true",
    "plan.device=h100",
]
PARTS = ("weights", "gradients", "main weights", "optimizer", "activations", "logits and loss", "framework")


def plan(overrides: list[str]) -> dict[str, str]:
    config = compose("pretrain", overrides)
    text, plot, *_ = describe_run(config, validate_pretrain(config)).split("\n\n")
    assert "*" in plot and plot.splitlines()[-1].split()[:2] == ["tokens", "0"]
    rows = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines()]
    assert all(len(row) == 2 for row in rows)
    return dict(rows)


def test_param1() -> None:
    rows = plan(PARAM1)
    assert rows["run"] == "outputs/param1"
    assert rows["parameters"] == "2,860,648,448"
    assert rows["vocabulary"] == "256,000 (padded to 256,000)"
    assert rows["tokens per step"] == "4,194,304 = 2,048 x 2,048; 8,192 per device"
    steps = -(-7_500_000_000_000 // 4_194_304)
    assert rows["steps"] == f"{steps:,}"
    assert rows["tokens in all"] == f"{steps * 4_194_304:,}"
    assert rows["FLOPs per token"].startswith("15.6")
    assert rows["layout"] == "512 processes: tensor 2 x pipeline 1 x data 256"
    assert rows["learning rate"] == "cosine, 0.0003 to 3e-06, 2,000 warm-up steps"
    drawn = steps * 4_194_304 // 4
    assert rows["source en"] == f"75.00 %  data/en  {3 * drawn:,} tokens, data not found, epochs unknown"
    assert rows["source hi"] == f"25.00 %  data/hi  {drawn:,} tokens, data not found, epochs unknown"
    parts = [gib(rows[name]) for name in PARTS]
    assert gib(rows["memory"]) == pytest.approx(sum(parts), abs=0.04)
    # bf16 weights: half the parameters on each of two tensor-parallel ranks, 2 bytes each.
    assert parts[0] == pytest.approx(2_860_648_448 / 2**30, abs=0.01)
    assert rows["device"] == "NVIDIA H100 80GB HBM3, 79.6 GiB (plan.device)"
    assert rows["memory"].endswith("%: fits")


def gib(value: str) -> float:
    size, unit = value.split()[:2]
    return float(size) / {"GiB": 1, "MiB": 1024}[unit]


def test_days_and_saves() -> None:
    """Half of the peak of 512 H100s: 16.2M tokens/s, 7.5T tokens in 5.4 days."""
    changes = ["plan.mfu=0.5", "plan.device=h100", "trainer.checkpoint.every_minutes=30"]
    rows = plan([*PARAM1, *changes, "trainer.checkpoint.every_n_steps=10000"])
    rate = 0.5 * 989e12 / 15.628e9
    step = 4_194_304 / (512 * rate)
    assert rows["time"].startswith(
        f"about {7.5e12 / (512 * rate) / 86400:.1f} days, {1e3 * step:.1f} ms per step, "
    )
    assert rows["assumed"] == "50 % of 989 TFLOP/s (plan.mfu)"
    size, kept, often = re.split(r", (?=\d+ kept)|; ", rows["checkpoint"])
    assert size == f"{14 * 2_860_648_448 / 1e9:.2f} GB" and kept == "2 kept"
    by_steps, by_time = often.split(" and ")
    assert by_steps == f"every 10,000 steps, about {10_000 * step / 60:.1f} min"
    assert by_time.startswith("every 30 minutes, about ") and by_time.endswith(" steps")
    assert int(by_time.split()[-2].replace(",", "")) == pytest.approx(1800 / step, rel=1e-3)
    assert plan(PARAM1)["checkpoint"].endswith("; only at the end and when the run is stopped")


def test_other_devices() -> None:
    host = plan([*PARAM1, "plan.device=cpu"])
    assert host["device"].startswith("CPU") and "for 512 processes" in host["memory"]
    assert host["memory"].endswith("DOES NOT FIT")
    assert host["assumed"].startswith(f"{20 * len(os.sched_getaffinity(0))} GFLOP/s")
    assert plan([*PARAM1, "trainer.peak_tflops=100"])["assumed"] == "40 % of 100 TFLOP/s (plan.mfu)"
    with pytest.raises(
        UserError, match=r"plan\.mfu=0\.5: a CPU's peak is not known: set trainer\.peak_tflops"
    ):
        plan([*PARAM1, "plan.device=cpu", "plan.mfu=0.5"])
    with pytest.raises(UserError, match=r"plan\.device=h1000: choose one of cpu, h200"):
        plan([*PARAM1, "plan.device=h1000"])


def test_precision_and_decay_are_told() -> None:
    rows = plan([*PARAM1, "trainer.precision=fp32", "optim.lr_decay_steps=9000"])
    assert "(fp32)" in rows["memory"] and "main weights" not in rows
    assert rows["learning rate"].endswith("decay over 9,000")


def test_lengths_in_tokens_and_rates_by_kind() -> None:
    step = 2048 * 2048
    changes = ["optim.lr_warmup_steps=0", f"optim.lr_warmup_tokens={step * 1999 + 1}"]
    changes += ["optim.lr_decay_style=WSD", f"optim.lr_wsd_decay_tokens={step * 50_000}"]
    rows = plan([*PARAM1, *changes, "optim.embedding_lr=3e-3", "optim.head_lr=6e-4"])
    assert rows["learning rate"] == "WSD, 0.0003 to 3e-06, 2,000 warm-up steps, 50,000 steps of linear decay"
    assert (rows["embeddings"], rows["head"]) == ("0.003 to 3e-05", "0.0006 to 6e-06")


def test_groups_by_name() -> None:
    groups = "optim.groups=[{pattern:'embedding.*',lr:1e-3,weight_decay:0},{pattern:'*.0.*norm*',lr_mult:2}]"
    rows = plan([*PARAM1, groups])
    taken = "1 tensor, 524,288,000 parameters: embedding.word_embeddings.weight"
    assert rows["embedding.*"] == f"lr 0.001, weight decay 0: {taken}"
    assert rows["*.0.*norm*"].startswith("lr x 2: 2 tensors, 4,096 parameters: decoder.layers.0.self_")


def test_without_sources() -> None:
    rows = plan(["name=x", "data.seq_length=64", "trainer.max_steps=3", "dry_run=true"])
    assert not any(name.startswith("source") for name in rows)
    assert rows["steps"] == "3"
