"""All data-parallel ranks together read the single order; a held-out set counts every token once."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import chain
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.config.timeline import even_timeline
from recipes.data.samples.blend import continue_blend
from recipes.data.samples.loader import (
    FIELDS,
    SENT_WHOLE,
    StepSampler,
    collate,
    collate_in_worker,
    training_loader,
    training_sources,
    validation_loader,
)
from tests.support.sources import SEQ_LENGTH, TOKENIZER, run_config, write_source


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loader")
    write_source(path / "en", 900)
    write_source(path / "hi", 400, first=100_000)
    return path


def steps_of(
    directory: Path, size: int, first_step: int = 0, steps: int = 12, **trainer: Any
) -> list[list[list[int]]]:
    """Per step the samples in Megatron's global order: micro-batch by micro-batch, in each rank by rank."""
    config = run_config({"en": (directory / "en", 0.7), "hi": (directory / "hi", 0.3)}, **trainer)
    micro = config.trainer.micro_batch_size
    per_rank = []
    for rank in range(size):
        loader, _ = training_loader(
            config,
            training_sources(config, TOKENIZER, directory / "cache"),
            continue_blend({"en": 0.7, "hi": 0.3}, SEQ_LENGTH, None, 0),
            first_step=first_step,
            total_steps=steps,
            data_parallel_rank=rank,
            data_parallel_size=size,
        )
        assert len(loader) == steps
        per_rank.append(list(loader))
    out = []
    for batches in zip(*per_rank, strict=True):
        for batch in batches:
            assert batch["tokens"].shape == (config.trainer.global_batch_size // size, SEQ_LENGTH)
            assert batch["tokens"].dtype == batch["labels"].dtype == torch.int64
            assert batch["loss_mask"].dtype == torch.float32
        chunks = [batch["tokens"].split(micro) for batch in batches]
        out.append(torch.cat([chunk for group in zip(*chunks, strict=True) for chunk in group]).tolist())
    return out


@pytest.mark.parametrize(("size", "micro"), [(1, 8), (1, 1), (2, 2), (4, 2), (8, 1), (2, 4)])
def test_layouts_read_the_same_samples(directory: Path, size: int, micro: int) -> None:
    assert steps_of(directory, size, micro_batch_size=micro) == steps_of(directory, 1, micro_batch_size=2)


def test_batch_size_only_regroups(directory: Path) -> None:
    eights = steps_of(directory, 1, steps=12)
    fours = steps_of(directory, 2, steps=24, global_batch_size=4)
    assert list(chain(*eights)) == list(chain(*fours))


def test_resuming_and_length(directory: Path) -> None:
    whole = steps_of(directory, 2, steps=12)
    assert steps_of(directory, 2, first_step=5, steps=12) == whole[5:]
    assert steps_of(directory, 1, steps=7) == whole[:7]


def test_workers_deliver_the_same(directory: Path) -> None:
    config = run_config({"en": (directory / "en", 1.0)})
    batches = []
    for workers in (0, 2):
        changed = replace(config, data=replace(config.data, num_workers=workers))
        loader, _ = training_loader(
            changed,
            training_sources(changed, TOKENIZER, directory / "cache"),
            continue_blend({"en": 1.0}, SEQ_LENGTH, None, 0),
            first_step=0,
            total_steps=5,
            data_parallel_rank=0,
            data_parallel_size=1,
        )
        batches.append([{f: (v.dtype, v.tolist()) for f, v in batch.items()} for batch in loader])
    assert batches[0] == batches[1]


@given(
    micro=st.integers(1, 4),
    size=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    first=st.integers(0, 5),
    more=st.integers(0, 5),
)
def test_sampler(micro: int, size: int, accumulation: int, first: int, more: int) -> None:
    batch = micro * size * accumulation
    ranks = [
        list(
            StepSampler(
                first,
                first + more,
                even_timeline(batch, micro, SEQ_LENGTH),
                data_parallel_rank=rank,
                data_parallel_size=size,
            )
        )
        for rank in range(size)
    ]
    for step in range(more):
        everything = [
            ranks[rank][step][start + k]
            for start in range(0, micro * accumulation, micro)
            for rank in range(size)
            for k in range(micro)
        ]
        assert everything == list(range((first + step) * batch, (first + step + 1) * batch))


@pytest.mark.parametrize("tokens", [9, 10, 17, 66, 403])
@pytest.mark.parametrize(("size", "micro", "batch"), [(1, 1, 1), (1, 8, 8), (2, 2, 8), (4, 4, 32)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_tokens_count_once(
    tmp_path: Path, tokens: int, size: int, micro: int, batch: int, seed: int
) -> None:
    """Every token but the very first is predicted once, padding never, by all ranks together."""
    prefix = write_source(tmp_path / "valid", tokens, seed=tokens)
    config = replace(run_config({}, micro_batch_size=micro, global_batch_size=batch), seed=seed)
    counted: list[int] = []
    for rank in range(size):
        loader = validation_loader(
            config,
            str(prefix),
            TOKENIZER,
            cache_dir=tmp_path / "cache",
            data_parallel_rank=rank,
            data_parallel_size=size,
        )
        for part in loader:
            assert part["tokens"].shape == (batch // size, SEQ_LENGTH)
            assert set(part["loss_mask"].unique().tolist()) <= {0.0, 1.0}
            counted += part["labels"][part["loss_mask"] == 1].tolist()
    assert len(counted) == tokens - 1
    assert len(set(counted)) == tokens - 1
    assert set(counted) <= set(range(tokens))


def test_limited_held_out_set(tmp_path: Path) -> None:
    prefix = write_source(tmp_path / "valid", 1000)
    config = run_config({}, limit_val_batches=3)
    loader = validation_loader(
        config,
        str(prefix),
        TOKENIZER,
        cache_dir=tmp_path / "cache",
        data_parallel_rank=0,
        data_parallel_size=1,
    )
    assert len(loader) == 3
    assert sum(float(part["loss_mask"].sum()) for part in loader) == 3 * 8 * SEQ_LENGTH
    whole = validation_loader(
        replace(config, trainer=replace(config.trainer, limit_val_batches=100)),
        str(prefix),
        TOKENIZER,
        cache_dir=tmp_path / "cache",
        data_parallel_rank=0,
        data_parallel_size=1,
    )
    assert len(whole) == -(-999 // (8 * SEQ_LENGTH))


def test_collate() -> None:
    sample = {"tokens": torch.arange(3), "labels": torch.arange(1, 4), "loss_mask": torch.ones(3), "other": 1}
    batch = collate(FIELDS, [sample, sample])
    assert batch.keys() == {"tokens", "labels", "loss_mask"}
    assert batch["labels"].tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize(("samples", "is_small"), [(2, True), (40, False)])
def test_small_batches_come_through_the_pipe(samples: int, is_small: bool) -> None:
    """Without a file in memory and a socket to ask for it; large ones are not copied through the pipe."""
    sample = {"tokens": torch.arange(1024), "labels": torch.arange(1024) + 1, "loss_mask": torch.ones(1024)}
    batch = collate_in_worker(FIELDS, [sample] * samples)
    assert (sum(tensor.nbytes for tensor in batch.values()) <= SENT_WHOLE) == is_small
    received = pickle.loads(ForkingPickler.dumps(batch))
    assert type(received) is dict
    for field, tensor in collate(FIELDS, [sample] * samples).items():
        assert torch.equal(received[field], tensor) and received[field].dtype == tensor.dtype
        assert received[field].is_shared() == (not is_small)
        received[field][0, 0] = 7  # A trainer may write into its batch.
