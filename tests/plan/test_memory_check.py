"""Runs that memory is too small for are refused before anything is built."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.world import World
from recipes.errors import UserError
from recipes.plan import memory_check
from recipes.plan.machine import free_bytes, this_host
from recipes.plan.memory_check import check_memory
from tests.support.configs import changed
from tests.support.corpus import TinyData
from tests.support.paths import ROOT
from tests.support.run_cases import command, environment

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="plans for the host's memory")


FREE = 32.0
"""GiB. Other programs take and leave memory while tests run, so that they are told what is free."""


@pytest.fixture
def known_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "_free", lambda device, world: int(FREE * 2**30))


def of_gib(data: TinyData, gib: float) -> PretrainConfig:
    """A run whose output head alone takes the memory: with fp32 weights, 28 bytes a parameter."""
    config: PretrainConfig = compose("pretrain", data.overrides())
    columns = 1024
    return changed(
        config,
        model__hidden_size=columns,
        model__num_layers=1,
        model__num_attention_heads=8,
        model__num_query_groups=1,
        model__vocab_size=int(gib * 2**30 / 28 / columns),
        model__share_embeddings_and_output_weights=True,
        trainer__micro_batch_size=1,
    )


@pytest.mark.usefixtures("known_memory")
def test_too_large_tight_and_small(tiny_data: TinyData, capsys: pytest.CaptureFixture[str]) -> None:
    check_memory(of_gib(tiny_data, 0.1), World())
    assert capsys.readouterr().err == ""
    check_memory(of_gib(tiny_data, FREE), World())
    assert capsys.readouterr().err.startswith("warning: memory: about ")
    large = of_gib(tiny_data, 2 * FREE)
    with pytest.raises(UserError) as caught:
        check_memory(large, World())
    text = str(caught.value)
    assert "\n" not in text and text.startswith("memory: about ")
    assert all(f"{part} " in text for part in ("weights", "gradients", "optimizer", "saving", "framework"))
    assert "choose a smaller model" in text and text.endswith("plan.memory_check=warn to try it")
    check_memory(changed(large, plan__memory_check="warn"), World())
    assert capsys.readouterr().err.startswith("warning: memory: about ")


def test_what_is_free_and_what_a_run_holds_already() -> None:
    host, free = this_host(), free_bytes(this_host(), 0)
    one, four = (memory_check._free(host, World(size=n, local_size=n)) for n in (1, 4))
    held = psutil.Process().memory_info().rss
    assert one == pytest.approx(free + held, rel=0.5) and four > one + 2 * held


@pytest.mark.usefixtures("known_memory")
def test_processes_of_a_host_share_its_memory(tiny_data: TinyData) -> None:
    config = of_gib(tiny_data, 0.8 * FREE)
    check_memory(config, World())
    eight = World(size=8, local_size=8)
    with pytest.raises(UserError, match="x 8 processes"):
        check_memory(config, eight)
    check_memory(config, replace(eight, local_size=1))


def test_remedies_for_large_batches(tiny_data: TinyData) -> None:
    config: PretrainConfig = compose("pretrain", tiny_data.overrides())
    ways = r"lower trainer\.micro_batch_size=1000000 or set parallel\.recompute_granularity=full "
    with pytest.raises(UserError, match=ways):
        check_memory(
            changed(config, trainer__micro_batch_size=1_000_000, trainer__global_batch_size=1_000_000),
            World(),
        )
    with pytest.raises(UserError, match=r"lower data\.seq_length=100000000"):
        recomputed = {"parallel__recompute_granularity": "full", "parallel__recompute_method": "uniform"}
        check_memory(
            changed(config, trainer__micro_batch_size=1, data__seq_length=100_000_000, **recomputed), World()
        )


def test_param1_on_one_process(tiny_data: TinyData, tmp_path: Path) -> None:
    """Refused without importing torch, and without a trace."""
    if this_host().memory > 200 * 2**30:
        pytest.skip("it fits")
    data = [
        f"tokenizer.model={tiny_data.tokenizer}",
        f"data.train={{en:{{path:{tiny_data.prefix('train_en')}}}}}",
    ]
    settings = ["name=x", "model=param1_2p9b", "data.seq_length=256", "trainer.max_steps=1"]
    line = command("recipes.pretrain", [*settings, *data, f"output_dir={tmp_path}"])
    line[1:1] = ["-X", "importtime"]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (error,) = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert error.startswith("error: memory: about ") and "Traceback" not in done.stderr
    imported = {text.split("|")[-1].strip() for text in done.stderr.splitlines()}
    assert "recipes.plan.memory_check" in imported and not {"torch", "nemo", "megatron"} & imported
    assert not (tmp_path / "x" / "checkpoints").exists() and not (tmp_path / "x" / "config.yaml").exists()
