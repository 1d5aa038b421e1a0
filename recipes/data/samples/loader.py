"""Which samples a rank reads for each optimizer step, and the loaders that deliver them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.utils import Split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from recipes.config.data_schema import DataConfig
from recipes.config.phases import plan_phases, sources_in_use
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import Timeline, even_timeline, timeline_of
from recipes.config.world import launched_world
from recipes.console import warn
from recipes.data.samples.blend import BlendState, RunBlend, Source, stretches_of
from recipes.data.samples.chats import ChatSource, HeldOutChats
from recipes.data.samples.skip import Skip
from recipes.data.samples.source import BlendSource, Epochs, SourceText
from recipes.data.samples.worker_signals import heed_only_the_trainer, held_back
from recipes.data.tokenizer import TextTokenizer

FIELDS = {"tokens": torch.int64, "labels": torch.int64, "loss_mask": torch.float32}
SEPARATE_FIELDS = FIELDS | {"position_ids": torch.int64}
"""With data.reset_attention_mask: positions begin anew at 0 with every document."""


def fields_of(data: DataConfig) -> dict[str, torch.dtype]:
    """What a batch consists of, each ``[n, s]``."""
    return SEPARATE_FIELDS if data.reset_attention_mask else FIELDS


class StepSampler(Sampler[list[int]]):
    """One list of indices per optimizer step: this data-parallel rank's micro-batches, one after another.

    Every step goes on where the one before it ends. The order of its samples over micro-batches and ranks is
    Megatron's: consecutive runs of micro_batch_size samples go to consecutive data-parallel ranks.
    """

    def __init__(
        self,
        first_step: int,
        total_steps: int,
        timeline: Timeline,
        *,
        data_parallel_rank: int,
        data_parallel_size: int,
    ) -> None:
        self.first_step, self.total_steps, self.timeline = first_step, total_steps, timeline
        self.rank, self.size = data_parallel_rank, data_parallel_size

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.places, range(self.first_step, self.total_steps))

    def places(self, step: int) -> list[int]:
        """The samples of one step, counted from 0."""
        chunk = self.timeline.at(step).micro_batch_size
        start = self.timeline.samples(step) + self.rank * chunk
        end = self.timeline.samples(step + 1)
        return [i + k for i in range(start, end, chunk * self.size) for k in range(chunk)]

    def __len__(self) -> int:
        """Steps of the whole run, those before ``first_step`` included: Lightning counts them too."""
        return self.total_steps


class HeldOut(Dataset):
    """A whole held-out set once, shuffled by the seed; indices past its end give masked samples."""

    def __init__(self, source: Epochs) -> None:
        source.build(0, 0)
        self.samples = source.epoch(0)
        # Else GPTDataset writes the padding of the first sample it reads into the mask that it keeps for all.
        self.samples.masks_and_position_ids_are_cacheable = False

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.samples[index if index < len(self.samples) else None]


class StepLoader(DataLoader):
    """A DataLoader whose workers outlive the signals that stop the trainer in good order."""

    def _get_iterator(self) -> Any:
        with held_back():  # Workers are forked here and inherit it.
            return super()._get_iterator()


SENT_WHOLE = 2**19
"""Bytes of the largest batch that a worker's pipe carries faster than files in memory do."""


class SentWhole(dict[str, Tensor]):
    """Tensors that a worker's pipe carries to the trainer, where they are a plain dictionary.

    torch would put each into a file in memory, whose descriptor the trainer asks the worker for over a socket
    of its own: 0.3 ms each, which is longer than reading the samples of a small batch takes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, ({field: tensor.numpy() for field, tensor in self.items()},)


def _received(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {field: torch.from_numpy(array) for field, array in arrays.items()}


def collate(fields: Iterable[str], samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks the samples' ``[s]`` to ``[n, s]``, for each of the fields."""
    return {field: torch.stack([sample[field] for sample in samples]) for field in fields}


def collate_in_worker(fields: Iterable[str], samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The same, in the form in which it reaches the trainer sooner."""
    batch = collate(fields, samples)
    is_small = sum(tensor.nbytes for tensor in batch.values()) <= SENT_WHOLE
    return SentWhole(batch) if is_small else batch


def training_sources(
    config: PretrainConfig, tokenizer: TextTokenizer, cache_dir: Path
) -> dict[str, SourceText | ChatSource]:
    """The configured sources that some phase draws from, by name."""
    data = config.data
    if data.conversations:
        names = sources_in_use(config)
        chats = {name: ChatSource(data.train[name].path, tokenizer, data, config.seed) for name in names}
        for name, source in chats.items():
            if (source.truncated or source.dropped) and launched_world().rank == 0:
                warn(
                    f"data.train.{name}: of its conversations {source.truncated:,} lose their end in "
                    f"data.seq_length={data.seq_length:,}; {source.dropped:,} without an answer are left out"
                )
        return dict(chats)
    return {
        name: _text(config, data.train[name].path, tokenizer, cache_dir, Split.train)
        for name in sources_in_use(config)
    }


def training_loader(
    config: PretrainConfig,
    sources: Mapping[str, SourceText | ChatSource],
    saved: BlendState | None,
    *,
    first_step: int,
    total_steps: int,
    data_parallel_rank: int,
    data_parallel_size: int,
    skip: Skip | None = None,
) -> tuple[DataLoader[dict[str, Tensor]], RunBlend]:
    """Batches of ``[global batch / data_parallel_size, s]`` from ``first_step`` on, and their blends.

    ``saved`` is the blend that held when a run that is resumed was saved; ``skip``: None: data.skip.
    """
    timeline = timeline_of(config)
    skip = Skip(config.data.skip) if skip is None else skip
    phases = [
        replace(phase, first=skip.sample(phase.first), end=skip.sample(phase.end))
        for phase in plan_phases(config)
    ]
    consumed = timeline.samples(first_step)
    reached, end = skip.sample(consumed), skip.sample(timeline.samples(total_steps))
    stretches = stretches_of(phases, saved, reached, end)
    parts = stretches[-1][0].parts  # Those of earlier blends are the first of them.
    used = dict.fromkeys(name for state, _ in stretches for name in state.weights)
    cut: dict[str, Source] = {}
    for name in used:
        source = sources[name]
        # Conversations are packed at one length.
        cut[name] = source if isinstance(source, ChatSource) else BlendSource(source, parts[name])
    blend = RunBlend(cut, stretches, skip, phases)
    blend.build_epochs(consumed)
    sampler = StepSampler(
        first_step,
        total_steps,
        timeline,
        data_parallel_rank=data_parallel_rank,
        data_parallel_size=data_parallel_size,
    )
    return _loader(blend, sampler, fields_of(config.data), config.data.num_workers), blend


def validation_loader(
    config: PretrainConfig,
    prefix: str,
    tokenizer: TextTokenizer,
    *,
    cache_dir: Path,
    data_parallel_rank: int,
    data_parallel_size: int,
) -> DataLoader[dict[str, Tensor]]:
    """The held-out set at ``prefix``, or its first ``limit_val_batches`` global batches."""
    held_out = _held_out(config, prefix, tokenizer, cache_dir)
    steps = -(-len(held_out) // config.trainer.global_batch_size)
    sampler = StepSampler(
        0,
        min(steps, config.trainer.limit_val_batches or steps),
        even_timeline(
            config.trainer.global_batch_size, config.trainer.micro_batch_size, config.data.seq_length
        ),
        data_parallel_rank=data_parallel_rank,
        data_parallel_size=data_parallel_size,
    )
    return _loader(held_out, sampler, fields_of(config.data), num_workers=0)


def _held_out(
    config: PretrainConfig, prefix: str, tokenizer: TextTokenizer, cache_dir: Path
) -> HeldOut | HeldOutChats:
    data = config.data
    if data.conversations:
        return HeldOutChats(ChatSource(prefix, tokenizer, data, config.seed))
    text = _text(config, prefix, tokenizer, cache_dir, Split.valid)
    return HeldOut(Epochs(text, data.seq_length))


def _text(
    config: PretrainConfig, path: Any, tokenizer: TextTokenizer, cache_dir: Path, split: Split
) -> SourceText:
    return SourceText(
        path,
        tokenizer,
        seed=config.seed,
        eod_mask_loss=config.data.eod_mask_loss,
        reset_attention_mask=config.data.reset_attention_mask,
        cache_dir=cache_dir,
        split=split,
    )


def _loader(
    dataset: Dataset[dict[str, Tensor]], sampler: StepSampler, fields: Iterable[str], num_workers: int
) -> DataLoader[dict[str, Tensor]]:
    return StepLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=partial(collate_in_worker if num_workers else collate, list(fields)),
        num_workers=num_workers,
        worker_init_fn=heed_only_the_trainer if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
