"""Runs with data.reset_attention_mask: layouts, recorded steps and restarts change nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recipes.run_directory import RunDirectory
from tests.support.corpus import TinyData
from tests.support.graph_cases import recorded_case
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


def settings(data: TinyData, directory: Path, name: str, *more: str) -> list[str]:
    base = data.overrides(
        name=name,
        output_dir=str(directory),
        save_nemo="false",
        data__reset_attention_mask="true",
        optim__lr_decay_steps="20",
        trainer__max_steps="4",
        trainer__micro_batch_size="1",
        trainer__global_batch_size="4",
        trainer__val_check_interval="4",
    )
    return [*base, *more]


@pytest.mark.slow
def test_layouts_and_restarts(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    (plain,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, "plain"))
    assert plain.code == 0, plain.message
    assert "attention by SDPA, each document's own" in plain.stdout
    joined = settings(tiny_data, tmp_path, "joined", "data.reset_attention_mask=false")
    (joined_up,) = gloo_pool.run(1, run_case, joined)
    assert all(abs(plain.losses[step] - joined_up.losses[step]) > 1e-4 for step in (2, 3, 4))
    for layout in ("tp2_sp", "pp2", "dp2"):
        size, parallel = LAYOUTS[layout]
        outcome = gloo_pool.run(size, run_case, settings(tiny_data, tmp_path, layout, *parallel))[0]
        assert outcome.losses == pytest.approx(plain.losses, rel=1e-5), layout
        assert outcome.metrics[-1]["valid.en.loss"] == pytest.approx(
            plain.metrics[-1]["valid.en.loss"], rel=1e-5
        )
    (recorded, made) = gloo_pool.run(1, recorded_case, settings(tiny_data, tmp_path, "recorded"))[0]
    assert (recorded.code, recorded.losses) == (0, plain.losses) and made > 0
    parts = settings(tiny_data, tmp_path, "parts", "trainer.max_steps=2")
    gloo_pool.run(1, run_case, parts)
    (rest,) = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, "parts"))
    assert rest.losses == plain.losses


def test_prompts_begin_as_documents_did(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """No token has seen the end of the document before."""
    from recipes.checkpoint.open import open_stored_model

    asked = settings(tiny_data, tmp_path, "x", "save_nemo=true", "trainer.max_steps=1")
    gloo_pool.run(1, run_case, asked)
    directory = RunDirectory(tmp_path / "x")
    for path in (directory.nemo_file, directory.path):
        with open_stored_model(path) as stored:
            assert stored.document_start is None
    other = settings(tiny_data, tmp_path, "y", "save_nemo=true", "trainer.max_steps=1")
    gloo_pool.run(1, run_case, [*other, "data.reset_attention_mask=false"])
    with open_stored_model(tmp_path / "y" / "model.nemo") as stored:
        assert stored.document_start == "eos"


def test_documents_that_cannot_be_told_apart(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Foreign data have no sidecar: their first document is looked at."""
    for suffix in (".bin", ".idx"):
        shutil.copy(tiny_data.prefix("train_en") + suffix, tmp_path / f"en{suffix}")
    train = f"data.train={{en:{{path:{tmp_path}/en}}}}"
    asked = settings(tiny_data, tmp_path, "x", "trainer.max_steps=1", train)
    assert gloo_pool.run(1, run_case, asked)[0].code == 0
    with (tmp_path / "en.bin").open("r+b") as file:
        file.write(bytes(10_000))  # The first documents' tokens are all 0 now.
    outcome = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path, "y", train))[0]
    assert outcome.code == 2
    assert "documents do not end with the tokenizer's end token" in outcome.message
